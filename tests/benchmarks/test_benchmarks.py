"""The benchmarks start, refuse what cannot work in one line, and measure this project's own side without a checkout."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pause_megatron.experiments.demo_corpus import write_pydoc_corpus

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = [
    "prepare_text",
    "preprocess",
    "memory",
    "insertion",
    "merge",
    "train_step",
    "conversion",
    "generation",
    "evaluation",
    "report",
]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})


def section(work: Path, name: str) -> dict:
    return json.loads((work / "sections" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder with two C4 shards."""
    folder = tmp_path_factory.mktemp("text") / "pydoc"
    write_pydoc_corpus(folder, train_shards=2)
    (folder / "pydoc-validation.00000-of-00001.json.gz").unlink()
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_command(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{script}.py" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--input", "nowhere/*.json.gz"], "--input nowhere/*.json.gz: no such file"),
        (["--input", __file__], "expected C4 shards named .json.gz"),
        (["--input", "SHARDS", "--megatron-lm", "nowhere"], "--megatron-lm nowhere: no tools/preprocess_data.py there"),
        (["--input", "SHARDS", "--workers", "3"], "--workers 3: --input has 2 shards"),
        (["--input", "SHARDS", "--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--input", "SHARDS", "--small-share", "1"], "--small-share 1.0: must be between 0 and 1"),
        (["--input", "SHARDS", "--vocabulary-size", "10"], "--vocabulary-size 10: must be at least 1000"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments, complaint, shards, tmp_path):
    arguments = [str(shards / "*.json.gz") if word == "SHARDS" else word for word in arguments]
    done = run("preprocess", "--work", tmp_path, *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_own_side_is_measured_without_a_checkout(shards, tmp_path):
    flags = ["--kinds", "unigram", "--vocabulary-size", 1000, "--repeats", 1, "--workers", 1, "--name", "tiny"]
    done = run("preprocess", "--input", shards / "*.json.gz", "--work", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    found = section(tmp_path, "3-bare-tiny")
    measured = found["measurements"]["unigram"]
    assert set(measured) == {"ours", "bare"}
    assert measured["ours"]["whole_tokens"] > measured["ours"]["part_tokens"] > 0
    assert all(cost["cpu_seconds"] > 0 and cost["peak_bytes"] > 1e7 for cost in measured["ours"]["whole"])
    assert not (tmp_path / "sections" / "1-classic-tiny.json").exists()

    report = run("report", "--work", tmp_path)
    assert report.returncode == 0, report.stderr
    assert found["title"] in report.stdout


def test_every_strategy_of_insertion_is_measured(tmp_path):
    done = run("insertion", "--work", tmp_path, "--tokens", 50_000, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    measurements = section(tmp_path, "4-insertion")["measurements"]
    assert {name.split(",")[0] for name in measurements["stored"]} == {"sequence", "document", "every", "none"}
    assert measurements["stored"]["every, 3 pauses"] == pytest.approx(4 * measurements["tokens"], rel=0.05)


def test_prepared_text_has_no_document_twice(shards, tmp_path):
    (tmp_path / "prose").mkdir()
    paragraph = "This is a paragraph of running text that is long enough to be taken as one, and it comes twice. " * 3
    (tmp_path / "prose" / "a.txt").write_text(
        f"{paragraph}\n\n{paragraph}\n\n| a table | is none |\n", encoding="utf-8"
    )
    pattern = shards / "*.json.gz"
    done = run(
        "prepare_text", "--c4", pattern, "--prose", tmp_path / "prose", "--shards", 2, "--output", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    texts = [
        json.loads(line)["text"]
        for path in sorted((tmp_path / "out").glob("*.json.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert len(texts) == len(set(texts)) > 100
    assert sum(text.count("paragraph of running text") for text in texts) == 3


def test_leftover_processes_count(tmp_path):
    """A child that outlives its parent is waited for, and its processor time counted."""
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'for i in range(10**7): pass'])"
    measure = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(BENCHMARKS)!r}); "
        "from cpu_time import run_measured; "
        f"print(run_measured([sys.executable, '-c', {program!r}], Path({str(tmp_path / 'log')!r})).cpu_seconds)"
    )
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    alone = "import time; t = time.process_time()\nfor i in range(10**7): pass\nprint(time.process_time() - t)"
    loop = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.5 * float(loop.stdout)


def test_sides_of_a_training_step_train_the_same_model(tmp_path):
    done = run("train_step", "--work", tmp_path, "--cases", "tiny", "--repeats", 1, "--no-compile")
    assert done.returncode == 0, done.stderr
    measurements = section(tmp_path, "6-train-step-cpu")["measurements"]
    assert len(measurements) == 2
    for sides in measurements.values():
        ours, theirs = sides["ours"]["losses"], sides["transformers"]["losses"]
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert ours[-1] < ours[0]
    if not torch.cuda.is_available():
        assert set(section(tmp_path, "7-train-step-gpu")["measurements"].values()) == {"not measured"}


def test_sides_of_generation_are_measured_after_every_number_of_pauses(tmp_path):
    flags = [
        "--pauses",
        0,
        2,
        "--prompt-tokens",
        8,
        "--batch-size",
        2,
        "--new-tokens",
        4,
        "--layers",
        1,
        "--repeats",
        2,
    ]
    done = run("generation", "--work", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    measurements = section(tmp_path, "9-generation")["measurements"]
    assert set(measurements) == {"gpt2, 0", "gpt2, 2", "llama, 0", "llama, 2"}
    for sides in measurements.values():
        assert set(sides) == {"ours, causal", "ours, bidirectional", "transformers"}
        for taken in sides.values():
            assert len(taken["first"]) == len(taken["whole"]) == 2
            assert 0 < min(taken["first"]) < max(taken["whole"])


def test_generation_beyond_the_context_is_refused_in_one_line(tmp_path):
    done = run("generation", "--work", tmp_path, "--pauses", 1000)
    assert done.returncode == 1
    assert done.stderr == "--prompt-tokens, --pauses and --new-tokens: 1192 positions of 1024\n"
