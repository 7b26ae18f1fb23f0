import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from pause_megatron.config.dataset import VerifyDatasetConfig
from pause_megatron.corpus.blocks import ReadOptions
from pause_megatron.corpus.sources import find_sources
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.planning import plan_run
from pause_megatron.preprocess.run import preprocess
from pause_megatron.preprocess.shard import ShardJob
from pause_megatron.preprocess.verification.verify_dataset import verify_dataset
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import add_pause
from tests.chain import verified
from tests.mpirun import ORIGINS, ROOT_IS_ALLOWED, run_mpi
from tests.preprocess.conftest import contents, rows_of
from tests.tokenizer.foreign import make_foreign

ROOT = Path(__file__).parents[2]


def text_stream(path, tokenizer):
    """The shard's stream by definition: every document's ids, then the end-of-document id."""
    (source,) = find_sources([str(path)])
    documents = [document for block in source.read(ReadOptions()) for document in block.texts]
    return [i for document in documents if document for i in [*tokenizer.encode(document), tokenizer.eod_id]]


def test_documents_begin_with_the_token_that_the_tokenizer_puts_before_texts(tmp_path, written, corpus):
    add_pause(make_foreign(tmp_path / "foreign", "llama2", list(topics.values())[:30]), tmp_path / "tokenizer")
    tokenizer = PauseTokenizer.load(tmp_path / "tokenizer")
    assert tokenizer.document_start == (1,)
    also = tuple(f"{kind}:{tmp_path / kind}" for kind in ("none", "document"))
    written(tmp_path / "sequence", tokenizer=tokenizer.path, input=(str(corpus.train[0]),), also=also)
    (source,) = find_sources([str(corpus.train[0])])
    documents = [text for block in source.read(ReadOptions()) for text in block.texts if text]
    framed = [[1, *tokenizer.encode(text), tokenizer.eod_id] for text in documents]
    for kind in ("sequence", "none", "document"):
        manifest = verified(tmp_path / kind)
        assert manifest.bos_ids == (1,)
        [rows] = [rows_of(tmp_path / kind, shard, manifest.seq_length) for shard in manifest.shards]
        tokens = np.concatenate(rows)
        real = tokens[tokens != tokenizer.pause_id]
        assert real.tolist() == [token for document in framed for token in document][: len(real)]
        if kind == "document":
            assert [row[0] for row in rows] == [1] * len(documents)
    verify_dataset(VerifyDatasetConfig(data=tmp_path / "document", standard=tmp_path / "none", workers=1))


@pytest.mark.parametrize("gaps", ["repeat", "distinct"])
@pytest.mark.parametrize("pauses", ["sequence", "none", "every", "document"])
def test_real_tokens_are_the_text(tmp_path, written, corpus, tokenizer, pauses, gaps):
    manifest, shards = written(tmp_path / "data", pauses=pauses, gaps=gaps)
    assert [shard.input for shard in manifest.shards] == list(map(str, corpus.train))
    for shard, sequences, path in zip(manifest.shards, shards, corpus.train, strict=True):
        stream = text_stream(path, tokenizer)
        tokens = np.concatenate(sequences)
        real = tokens[tokens != tokenizer.pause_id]
        assert real.tolist() == stream[: len(real)]
        assert shard.tail_tokens == shard.dropped_tokens == len(stream) - len(real) < 256
        assert (shard.tokens, shard.real_tokens, shard.sequences) == (tokens.size, len(real), len(sequences))
        assert shard.pauses == np.count_nonzero(tokens == tokenizer.pause_id)
        assert shard.pause_fraction == shard.pauses / shard.tokens
        assert shard.documents == stream.count(tokenizer.eod_id)
        assert shard.pause_runs == runs_one_by_one(sequences, tokenizer.pause_id)
        if pauses == "document":
            assert shard.sequences == shard.documents
            assert shard.tail_tokens == 0


def runs_one_by_one(sequences, pause_id):
    """Number of runs of every length, counted by hand."""
    runs = {}
    for sequence in sequences:
        length = 0
        for token in [*sequence.tolist(), -1]:
            if token == pause_id:
                length += 1
            elif length:
                runs[length] = runs.get(length, 0) + 1
                length = 0
    return runs


def test_dropped_tails_are_counted(tmp_path, written, corpus, tokenizer):
    manifest, shards = written(tmp_path / "data", trimmed="drop")
    for shard, sequences, path in zip(manifest.shards, shards, corpus.train, strict=True):
        stream = text_stream(path, tokenizer)
        assert shard.sequences == len(stream) // manifest.seq_length
        assert shard.tail_tokens == len(stream) % manifest.seq_length
        assert shard.trimmed_tokens == shard.pauses > 0
        assert shard.dropped_tokens == len(stream) - np.count_nonzero(sequences != tokenizer.pause_id)


def test_datasets_of_real_c4_with_and_without_pauses_have_the_same_text(tmp_path, written, c4_inputs, tokenizer):
    pause, pause_shards = written(
        tmp_path / "pause", input=c4_inputs, seq_length=2048, also=(f"none:{tmp_path / 'standard'}",)
    )
    standard = verified(tmp_path / "standard")
    for shard, with_pauses in zip(standard.shards, pause_shards, strict=True):
        without = rows_of(tmp_path / "standard", shard, 2048)
        real = with_pauses[with_pauses != tokenizer.pause_id]
        common = min(len(real), without.size)
        assert without.size - common < 2048
        np.testing.assert_array_equal(real[:common], without.ravel()[:common])
    assert pause.pauses / pause.tokens == pytest.approx(204 / 2252, rel=0.01)
    assert (standard.pauses, standard.pause_rate, standard.trimmed, standard.seed) == (0, 0.0, "carry", 0)
    assert [shard.documents for shard in pause.shards] == [2000, 200]


def test_one_pass_writes_what_several_write(tmp_path, config_for):
    others = {
        "none": {"pauses": "none"},
        "every,pauses-per-token=3": {"pauses": "every", "pauses_per_token": 3},
        "every,pause-interval=3": {"pauses": "every", "pause_interval": 3},
        "sequence,pause-rate=0.2,gaps=distinct": {"pause_rate": 0.2, "gaps": "distinct"},
        "document": {"pauses": "document"},
        "sequence,rates=drawn": {"rates": "drawn"},
        "document,rates=drawn": {"pauses": "document", "rates": "drawn"},
    }
    also = tuple(f"{description}:{tmp_path / 'together' / str(i)}" for i, description in enumerate(others))
    preprocess(config_for(tmp_path / "together" / "main", also=also))
    preprocess(config_for(tmp_path / "alone" / "main"))
    for i, changes in enumerate(others.values()):
        preprocess(config_for(tmp_path / "alone" / str(i), **changes))
    for name in ("main", *map(str, range(len(others)))):
        assert contents(tmp_path / "together" / name) == contents(tmp_path / "alone" / name)


def test_empty_documents_are_left_out(tmp_path, written):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": ""}\n{"text": "' + "word " * 600 + '"}\n{"text": ""}\n')
    manifest, _ = written(tmp_path / "data", input=(str(path),))
    assert (manifest.shards[0].documents, manifest.shards[0].empty_documents) == (1, 2)


def test_names_of_special_tokens_in_a_text_stay_text(tmp_path, written, tokenizer):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "' + "a <pause> and </s> and <unk> " * 100 + '"}\n')
    manifest, (documents,) = written(tmp_path / "data", input=(str(path),), pauses="none")
    assert manifest.pauses == 0
    assert np.count_nonzero(documents == tokenizer.eod_id) == 0  # the only one is in the tail
    assert "<pause> and </s> and <unk>" in tokenizer.decode(documents[0].tolist())


def test_text_key_selects_the_document(tmp_path, written):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": 7, "content": "' + "word " * 600 + '"}\n')
    manifest, _ = written(tmp_path / "data", input=(str(path),), text_key="content")
    assert (manifest.text_key, manifest.shards[0].documents) == ("content", 1)


def test_bytes_depend_on_seed_and_shard(tmp_path, written, corpus):
    copies = [tmp_path / "a.json.gz", tmp_path / "b.json.gz"]
    for copy in copies:
        shutil.copy(corpus.train[0], copy)
    inputs = tuple(map(str, copies))
    _, (first, second) = written(tmp_path / "one", input=inputs)
    _, (other_seed, _) = written(tmp_path / "two", input=inputs, seed=1)
    assert not np.array_equal(first[:10], second[:10])
    assert not np.array_equal(first[:10], other_seed[:10])


@pytest.fixture(scope="module")
def c4_dataset(tmp_path_factory, config_for, c4_shards):
    """Real C4 in six shards, preprocessed by one process."""
    folder = tmp_path_factory.mktemp("serial") / "data"
    preprocess(config_for(folder, input=c4_shards, engine="serial"))
    return contents(folder)


def test_four_processes_write_what_one_does(tmp_path, config_for, c4_shards, c4_dataset):
    preprocess(config_for(tmp_path, input=c4_shards, engine="process", workers=4))
    assert contents(tmp_path) == c4_dataset


def test_block_size_does_not_matter(tmp_path, config_for, c4_shards, c4_dataset, monkeypatch):
    small_blocks = lambda **options: ReadOptions(**options, block_bytes=3000)  # noqa: E731
    monkeypatch.setattr("pause_megatron.preprocess.planning.ReadOptions", small_blocks)
    preprocess(config_for(tmp_path, input=c4_shards))
    assert contents(tmp_path) == c4_dataset


def test_shard_ranges_in_any_order_write_what_one_run_does(tmp_path, config_for, c4_shards, c4_dataset, capsys):
    for shard_range in ("4:100", "0:2", "2:4"):
        assert not (tmp_path / "dataset.json").exists()
        preprocess(config_for(tmp_path, input=c4_shards, shard_range=shard_range))
    assert contents(tmp_path) == c4_dataset
    said = capsys.readouterr().err
    assert "2 of 6 shards are complete" in said
    preprocess(config_for(tmp_path, input=c4_shards, shard_range="90:100"))
    assert "6 shards: 0 to do in this run" in capsys.readouterr().err


def mpirun(origin, *arguments):
    """Run ``tools/preprocess_c4.py`` on two ranks."""
    return run_mpi(origin, sys.executable, ROOT / "tools/preprocess_c4.py", *arguments)


@pytest.mark.parametrize("origin", ORIGINS)
def test_mpi_ranks_write_what_one_process_does(origin, tmp_path, tokenizer, c4_shards, c4_dataset):
    flags = ["--tokenizer", tokenizer.path, "--seq-length", 256, "--input", *c4_shards]
    done = mpirun(origin, "--output", tmp_path / "data", *flags)
    assert done.returncode == 0, done.stderr
    assert "; 2 MPI ranks" in done.stderr
    assert contents(tmp_path / "data") == c4_dataset
    workers = {path.name for path in (tmp_path / "data/progress").iterdir()}
    assert len(workers) == 2  # both ranks worked


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_rank_that_fails_ends_the_job_with_its_message(origin, tmp_path, tokenizer, corpus):
    for i in range(4):  # the fourth by size is the last of the second rank
        (tmp_path / f"{i}.jsonl").write_text('{"text": "good"}\n' * (5000 - 1000 * i) + "{}\n" * (i == 1))
    done = mpirun(origin, "--output", tmp_path / "data", "--tokenizer", tokenizer.path, "--input", tmp_path / "*.jsonl")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == done.stderr.count("1.jsonl, line 4001: ") == 1
    assert not (tmp_path / "data/dataset.json").exists()


def test_ranks_that_mpi_does_not_join_are_refused(tmp_path):
    command = [sys.executable, str(ROOT / "tools/preprocess_c4.py"), "--input", "x", "--tokenizer", "y"]
    environment = {**os.environ, **ROOT_IS_ALLOWED, "PMI_SIZE": "4"}  # as the mpirun of another MPI library leaves it
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    if "finds no MPI library" in done.stderr:
        pytest.skip("no MPI library here; ranks that it does not join were not checked")
    assert done.returncode == 2
    assert "4 processes were started but MPI joins only 1, so" in done.stderr


def test_jobs_are_small_to_send(config_for, tmp_path, c4_shards):
    plan = plan_run(config_for(tmp_path, input=c4_shards))
    assert all(isinstance(job, ShardJob) for job in plan.jobs)
    assert len(pickle.dumps(plan.jobs)) < 1000 * len(plan.jobs)


def test_start_up_does_not_import_torch():
    code = (
        "import sys, pause_megatron.preprocess.run, pause_megatron.config.preprocess; "
        "heavy = ('torch', 'megatron', 'transformers', 'mpi4py', 'datasets'); "
        "print([name for name in heavy if name in sys.modules])"
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
