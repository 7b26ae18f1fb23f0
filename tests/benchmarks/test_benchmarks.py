"""Benchmarks: each script runs at small size, and refuses wrong flags in one line."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.costs.flops import training_flops
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from tests.quick import others_slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED = ("matrix_products", "measure", "vocabularies")
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in SHARED)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})


def measured(work: Path, name: str) -> Any:
    return json.loads((work / "results" / f"{name}.json").read_text(encoding="utf-8"))["measurements"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two C4 shards."""
    folder = tmp_path_factory.mktemp("text") / "pydoc"
    write_pydoc_corpus(folder, train_shards=2)
    (folder / "pydoc-validation.00000-of-00001.json.gz").unlink()
    return folder


@pytest.mark.parametrize("script", others_slow(SCRIPTS, quick=["train_step"]))
def test_help_shows_the_command(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{script}.py" in done.stdout


def test_results_show_commands_that_exist() -> None:
    text = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    shown = re.findall(r"python benchmarks/(\w+)\.py ([^\n`]*)", text)
    assert {script for script, _ in shown} == set(SCRIPTS)
    for script, flags in shown:
        source = "".join((BENCHMARKS / f"{name}.py").read_text(encoding="utf-8") for name in (script, "measure"))
        for flag in re.findall(r"--[\w-]+", flags):
            assert f'"{flag}"' in source, f"{script} has no {flag}"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--input", "nowhere/*.json.gz"], "--input nowhere/*.json.gz: no such file"),
        (["--input", __file__], "expected C4 shards named .json.gz"),
        (["--input", "SHARDS", "--megatron-lm", "nowhere"], "--megatron-lm nowhere: tools/preprocess_data.py does not"),
        (["--input", "SHARDS", "--workers", "3"], "--workers 3: --input has 2 shards"),
        (["--input", "SHARDS", "--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--input", "SHARDS", "--small-share", "1"], "--small-share 1.0: must be between 0 and 1"),
        (["--input", "SHARDS", "--vocabulary-size", "10"], "--vocabulary-size 10: must be at least 1000"),
    ],
)
def test_wrong_flag_is_refused_in_one_line(arguments: list[str], complaint: str, shards: Path, tmp_path: Path) -> None:
    arguments = [str(shards / "*.json.gz") if word == "SHARDS" else word for word in arguments]
    done = run("preprocess", "--work", tmp_path, *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_generation_beyond_the_context_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run("generation", "--work", tmp_path, "--pauses", 1000)
    assert done.returncode == 1
    message = "--prompt-tokens, --pauses and --new-tokens: 1192 positions, but the context has 1024\n"
    assert done.stderr == message


@pytest.mark.parametrize(
    ("kind", "encoder"), [("unigram", "word-table"), pytest.param("bytes", "", marks=pytest.mark.slow)]
)
def test_preprocessing_is_compared_with_the_bare_tokenizer(
    kind: str, encoder: str, shards: Path, tmp_path: Path
) -> None:
    flags = ["--kinds", kind, "--vocabulary-size", 1000, "--repeats", 1, "--workers", 1, "--name", "tiny"]
    done = run("preprocess", "--input", shards / "*.json.gz", "--work", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    assert "## Against the bare tokenizer, on tiny" in done.stdout
    assert f"| {kind} ({encoder}" in done.stdout
    found = measured(tmp_path, "bare-tiny")[kind]
    assert set(found) == {"ours", "bare"}
    assert found["ours"]["complete_tokens"] > found["ours"]["part_tokens"] > 0
    assert all(cost["cpu_seconds"] > 0 and cost["peak_bytes"] > 1e7 for cost in found["ours"]["complete"])
    assert 0 < found["bare"]["complete"][0]["cpu_seconds"] < found["bare"]["complete"][0]["wall_seconds"]
    assert not (tmp_path / "results" / "classic-tiny.json").exists()


def test_datatrove_is_compared_with_workers(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="datatrove is not installed; its benchmark was not run")
    flags = ["--kinds", "unigram", "--vocabulary-size", 1000, "--repeats", 1, "--workers", 2]
    done = run("engines", "--input", shards / "*.json.gz", "--work", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    found = measured(tmp_path, "engines")["unigram"]
    assert set(found) == {"workers", "datatrove", "reader"}
    assert all(cost["cpu_seconds"] > 0 for pairs in found.values() for pair in pairs for cost in pair)


def test_differing_documents_are_counted(shards: Path, tmp_path: Path) -> None:
    """Compares a dataset with its own text, stored as one sequence per document as Megatron-LM's tools do."""
    program = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from vocabularies import get_vocabulary
from preprocess import Tools, count_tokens, differing_documents
from pause_megatron.preprocess.indexed_files import index_bytes
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
work, shards = Path(sys.argv[2]), tuple(sorted(Path(sys.argv[3]).glob("*.json.gz")))
vocabulary = get_vocabulary("unigram", work / "vocabularies", list(shards), 1000)
tools = Tools(work, None, sys.executable)
tools.ours(vocabulary, shards, 1, "--pauses", "none")
manifest = load_dataset_manifest(work / "ours")
documents, tokens = count_tokens(work / "ours")
streams = []
for shard in manifest.shards:
    stored = np.fromfile(work / "ours" / f"{shard.name}.bin", dtype=np.uint16)
    missing = shard.documents - int((stored == manifest.eod_id).sum())
    # The incomplete last sequence is not stored: put one end-of-document token for every document in it.
    streams.append(np.concatenate([stored, np.full(missing, manifest.eod_id, dtype=np.uint16)]))
for change, expected in ((None, 0), (5, 1)):
    stream = np.concatenate(streams)
    if change is not None:
        stream[change] = 7 if stream[change] != 7 else 8
    ends = np.flatnonzero(stream == manifest.eod_id) + 1
    assert len(ends) == documents
    stream.tofile(work / "theirs.bin")
    lengths = np.diff(ends, prepend=0).astype(np.int32)
    (work / "theirs.idx").write_bytes(index_bytes(lengths, stream.dtype))
    assert differing_documents(work / "ours", str(work / "theirs")) == expected
"""
    arguments = [str(BENCHMARKS), str(tmp_path), str(shards)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tool_of_a_checkout_runs_with_its_own_megatron(tmp_path: Path) -> None:
    """The checkout contains only the modules that the launcher imports, and a tool that prints what it got."""
    modules = ("datasets/indexed_dataset", "tokenizers/text/libraries", "tokenizers/utils/build_tokenizer")
    for module in (*(f"core/{name}" for name in modules), "core/__init__", "training/arguments", "training/__init__"):
        file = tmp_path / "megatron" / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "tools").mkdir()
    tool = "import sys, typing, megatron.training.arguments as a; print(sys.argv, typing.override, a.__file__)"
    (tmp_path / "tools" / "preprocess_data.py").write_text(tool)
    command = [sys.executable, str(BENCHMARKS / "preprocess.py"), "megatron", str(tmp_path), "tools/preprocess_data.py"]
    environment = {**os.environ, "IMPORT_SECONDS_FILE": str(tmp_path / "seconds")}
    done = subprocess.run([*command, "--input", "x"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"['{tmp_path}/tools/preprocess_data.py', '--input', 'x']" in done.stdout
    assert f"{tmp_path}/megatron/training/arguments.py" in done.stdout
    assert float((tmp_path / "seconds").read_text()) > 0


def test_every_insertion_strategy_is_measured(tmp_path: Path) -> None:
    done = run("insertion", "--work", tmp_path, "--tokens", 50_000, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    found = measured(tmp_path, "insertion")
    assert {name.split(",")[0] for name in found["stored"]} == {"sequence", "document", "every", "none"}
    assert found["stored"]["every, 3 pauses"] == pytest.approx(4 * found["tokens"], rel=0.05)


@pytest.mark.slow
def test_merges_are_compared(tmp_path: Path) -> None:
    done = run("merge", "--work", tmp_path, "--documents", 640, "--tokens", 4, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    found = measured(tmp_path, "merging")
    (runs,) = found["4"]
    assert set(runs) == {"merge-datasets", "IndexedDatasetBuilder", "cat"}
    assert all(cost["wall_seconds"] > 0 for costs in runs.values() for cost in costs)
    assert runs["IndexedDatasetBuilder"][0]["import_seconds"] > 0


@pytest.mark.slow
def test_conversions_are_compared_with_copying(tmp_path: Path) -> None:
    done = run("conversion", "--work", tmp_path, "--layers", 1, 2, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    runs = measured(tmp_path, "conversion")
    assert set(runs[0]) == {"copy", "write", "convert_to_hf", "convert_from_hf"}
    assert all(cost["peak_bytes"] > 1e7 for costs in runs[0].values() for cost in costs)
    assert not (tmp_path / "conversion").exists()


def test_prepared_text_has_no_document_twice(shards: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    paragraph = "This is a paragraph of running text that is long enough to be used, and it comes twice. " * 3
    (texts / "a.txt").write_text(f"{paragraph}\n\n{paragraph}\n\n| a short table |\n", encoding="utf-8")
    record = {"question": f"A long string in a record. {paragraph}", "answer": "short", "id": 7}
    (texts / "b.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    done = run("prepare", "--c4", shards / "*.json.gz", "--text", texts, "--shards", 2, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    written = [
        json.loads(line)["text"]
        for path in sorted((tmp_path / "out").glob("*.json.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert len(written) == len(set(written)) > 100
    assert sum(text.count("paragraph of running text") for text in written) == 6
    assert not any("short table" in text for text in written)
    summary = json.loads((tmp_path / "out" / "text.json").read_text(encoding="utf-8"))
    assert summary["text"]["documents"] == 2
    assert sum(group["documents"] for group in summary.values()) == len(written)


def test_time_of_orphaned_processes_is_counted(tmp_path: Path) -> None:
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'for i in range(10**7): pass'])"
    measure = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(BENCHMARKS)!r}); "
        "from measure import run_measured; "
        f"print(run_measured([sys.executable, '-c', {program!r}], Path({str(tmp_path / 'log')!r})).cpu_seconds)"
    )
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    loop = "import time; t = time.process_time()\nfor i in range(10**7): pass\nprint(time.process_time() - t)"
    expected = subprocess.run([sys.executable, "-c", loop], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.5 * float(expected.stdout)


@pytest.mark.slow
def test_all_sides_train_the_same_model(tmp_path: Path) -> None:
    done = run("train_step", "--work", tmp_path, "--cases", "tiny", "--repeats", 1, "--no-compile")
    assert done.returncode == 0, done.stderr
    if torch.cuda.is_available():
        pytest.skip("on a GPU the script measures other cases")
    found = measured(tmp_path, "train-step-cpu")
    assert len(found) == 2
    for sides in found.values():
        ours, theirs = sides["ours"]["losses"], sides["transformers"]["losses"]
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert ours[-1] < ours[0]
        assert sides["matrix products"]["cpu"][0] > 0  # how they compare is up to the machine


def count_product(rows: list[int], weight: list[int], *_: Any, **__: Any) -> int:
    """Operations of oneDNN's linear layer, which PyTorch does not count itself."""
    return 2 * rows[0] * rows[1] * weight[0]


def count_added_product(total: list[int], left: list[int], *_: Any, **__: Any) -> int:
    return 2 * total[0] * total[1] * left[1]


@pytest.mark.parametrize(
    "settings", [{}, {"architecture": "llama", "num_query_groups": 2}], ids=["gpt2", "llama with grouped queries"]
)
def test_bare_matrix_products_are_those_of_a_step(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from matrix_products import matrix_products

    model = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=16, **settings)
    sizes = {"vocab_size": padded_vocab_size(100), "seq_length": 16}
    step = matrix_products(model, batch_size=3, **sizes)
    uncounted = {torch.ops.mkldnn._linear_pointwise: count_product, torch.ops.aten.addmm_: count_added_product}
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counter:
        step()
    assert counter.get_total_flops() == 3 * training_flops(model, **sizes).model


@pytest.mark.slow
def test_generation_is_measured_after_every_number_of_pauses(tmp_path: Path) -> None:
    sizes = ["--prompt-tokens", 8, "--batch-size", 2, "--new-tokens", 4, "--layers", 1, "--repeats", 2]
    done = run("generation", "--work", tmp_path, "--pauses", 0, 2, *sizes)
    assert done.returncode == 0, done.stderr
    found = measured(tmp_path, "generation")
    assert set(found) == {"gpt2, 0", "gpt2, 2", "llama, 0", "llama, 2"}
    for sides in found.values():
        assert set(sides) == {"ours, causal", "ours, bidirectional", "transformers"}
        for taken in sides.values():
            assert len(taken["first"]) == len(taken["complete"]) == 2
            assert min(taken["first"] + taken["complete"]) > 0  # how they compare is up to the machine


@pytest.mark.slow
def test_evaluation_is_compared_with_the_harness(tmp_path: Path) -> None:
    samples = {
        "webqs/train": {"question": "What colour is the sky?", "answers": ["blue"]},
        "webqs/test": {"question": "What colour is grass?", "answers": ["green"]},
        "piqa/train": {"goal": "Open a door", "sol1": "Push it.", "sol2": "Eat it.", "label": 0},
        "piqa/validation": {"goal": "Close a door", "sol1": "Paint it.", "sol2": "Pull it.", "label": 1},
        "lambada_openai/test": {"text": "The dog that barked at the cat was a very loud dog"},
    }
    for name, sample in samples.items():
        file = tmp_path / "tasks" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{json.dumps(sample)}\n" * 4, encoding="utf-8")
    flags = ["--documents", 2, "--batch-size", 2, "--layers", 1, "--repeats", 1]
    done = run("evaluation", "--work", tmp_path, "--data", tmp_path / "tasks", *flags)
    assert done.returncode == 0, done.stderr
    found = measured(tmp_path, "evaluation")
    assert set(found) == {"web_questions", "piqa", "lambada"}
    for sides in found.values():
        numbers = (0, 10, 50)
        both = {f"hf, {number} more tokens" for number in numbers} | {f"ours, M = {number}" for number in numbers}
        assert set(sides) == {*both, "ours, M = 0 2 5 10 20 35 50"}
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in sides.values())


def test_a_report_of_many_results_is_measured(tmp_path: Path) -> None:
    done = run("report", "--work", tmp_path, "--tasks", 1, "--seeds", 2, "--items", 3)
    assert done.returncode == 0, done.stderr
    (found,) = measured(tmp_path, "report")
    assert found["results"] == 2 * 4 * 5 * 2
    assert found["peak_bytes"] < 1e9
    assert 1e5 < found["sizes"][0] < 1e7
