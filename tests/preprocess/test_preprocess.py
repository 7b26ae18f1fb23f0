import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pause_megatron.preprocess.manifest import load_dataset_manifest
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer.corpus import read_documents

ROOT = Path(__file__).parents[2]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def text_stream(path, tokenizer):
    """The shard's stream by definition: every document's ids, then the end-of-document id."""
    documents = [document for block in read_documents(Path(path)) for document in block]
    return [i for document in documents if document for i in [*tokenizer.encode(document), tokenizer.eod_id]]


@pytest.mark.parametrize("pauses", ["sequence", "none"])
def test_real_tokens_are_the_text(tmp_path, written, corpus, tokenizer, pauses):
    manifest, shards = written(tmp_path / "data", pauses=pauses)
    assert [shard.input for shard in manifest.shards] == list(map(str, corpus.train))
    for shard, sequences, path in zip(manifest.shards, shards, corpus.train, strict=True):
        stream = text_stream(path, tokenizer)
        real = sequences[sequences != tokenizer.pause_id]
        assert real.tolist() == stream[: len(real)]
        assert shard.dropped_tokens == len(stream) - len(real) < manifest.seq_length
        assert (shard.tokens, shard.real_tokens) == (sequences.size, len(real))
        assert shard.pauses == np.count_nonzero(sequences == tokenizer.pause_id)
        assert shard.documents == stream.count(tokenizer.eod_id)


def test_dropped_tails_are_counted(tmp_path, written, corpus, tokenizer):
    manifest, shards = written(tmp_path / "data", trimmed="drop")
    for shard, sequences, path in zip(manifest.shards, shards, corpus.train, strict=True):
        stream = text_stream(path, tokenizer)
        assert shard.sequences == len(stream) // manifest.seq_length
        assert shard.dropped_tokens == len(stream) - np.count_nonzero(sequences != tokenizer.pause_id)


def test_standard_and_pause_dataset_of_real_c4_hold_the_same_text(tmp_path, written, c4_inputs, tokenizer):
    pause, pause_shards = written(tmp_path / "pause", input=c4_inputs, seq_length=2048)
    standard, standard_shards = written(tmp_path / "standard", input=c4_inputs, seq_length=2048, pauses="none")
    for with_pauses, without in zip(pause_shards, standard_shards, strict=True):
        real = with_pauses[with_pauses != tokenizer.pause_id]
        common = min(len(real), without.size)
        assert without.size - common < 2048
        np.testing.assert_array_equal(real[:common], without.ravel()[:common])
    assert pause.pauses / pause.tokens == pytest.approx(204 / 2252, rel=0.01)
    assert (standard.pauses, standard.pause_rate, standard.trimmed) == (0, 0.0, "carry")
    assert [shard.documents for shard in pause.shards] == [2000, 200]


def test_empty_documents_are_left_out(tmp_path, written):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": ""}\n{"text": "' + "word " * 600 + '"}\n{"text": ""}\n')
    manifest, _ = written(tmp_path / "data", input=(str(path),))
    assert (manifest.shards[0].documents, manifest.shards[0].empty_documents) == (1, 2)


def test_bytes_depend_on_seed_and_shard(tmp_path, written, corpus):
    copies = [tmp_path / "a.json.gz", tmp_path / "b.json.gz"]
    for copy in copies:
        shutil.copy(corpus.train[0], copy)
    inputs = tuple(map(str, copies))
    _, (first, second) = written(tmp_path / "one", input=inputs)
    _, (other_seed, _) = written(tmp_path / "two", input=inputs, seed=1)
    assert not np.array_equal(first[:10], second[:10])
    assert not np.array_equal(first[:10], other_seed[:10])


def test_two_processes_write_what_one_does(tmp_path, config_for, monkeypatch):
    preprocess(config_for(tmp_path / "serial", engine="serial"))
    preprocess(config_for(tmp_path / "two", engine="process", workers=2))
    assert contents(tmp_path / "serial") == contents(tmp_path / "two")


def test_block_size_does_not_matter(tmp_path, config_for, monkeypatch):
    preprocess(config_for(tmp_path / "large"))
    monkeypatch.setattr(
        "pause_megatron.preprocess.shard.read_documents", lambda path: read_documents(path, block_bytes=3000)
    )
    preprocess(config_for(tmp_path / "small"))
    assert contents(tmp_path / "large") == contents(tmp_path / "small")


def test_mpi_ranks_write_what_one_process_does(tmp_path, config_for, corpus, tokenizer):
    mpirun = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("no mpirun here; the MPI engine was not checked")
    preprocess(config_for(tmp_path / "serial"))
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launch = [mpirun, "-n", "2", "--oversubscribe", sys.executable, str(ROOT / "tools/preprocess_c4.py")]
    flags = ["--engine", "mpi", "--tokenizer", str(tokenizer.path), "--seq-length", "256", "--input"]

    def run(output, *inputs):
        command = ["env", *map("=".join, environment.items()), *launch, "--output", str(output), *flags, *inputs]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run(tmp_path / "mpi", *map(str, corpus.train)).returncode == 0
    assert contents(tmp_path / "serial") == contents(tmp_path / "mpi")

    (tmp_path / "bad.jsonl").write_text("{}\n")
    failed = run(tmp_path / "failed", str(tmp_path / "bad.jsonl"), *map(str, corpus.train))
    assert failed.returncode == 2
    assert failed.stderr.count("bad.jsonl, line 1") == 1


def test_start_up_does_not_import_torch():
    code = (
        "import sys, pause_megatron.preprocess.run, pause_megatron.config.preprocess; "
        "print([name for name in ('torch', 'megatron', 'transformers', 'mpi4py') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_command_line_writes_a_dataset(tmp_path, corpus, tokenizer):
    command = [sys.executable, str(ROOT / "tools/preprocess_c4.py"), "--input", str(corpus.validation)]
    command += ["--tokenizer", str(tokenizer.path.parent), "--output", str(tmp_path / "data"), "--seq-length", "128"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""
    manifest = load_dataset_manifest(tmp_path / "data")
    assert f"{manifest.sequences} sequences of 128 tokens" in found.stderr
