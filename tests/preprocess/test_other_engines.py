"""The parts of a run, and the examples of docs/other_engines.md, run as they are printed, in processes of their own.

They write the bytes of ``preprocess --workers 2``. Ray takes seconds to start, so it starts only once.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.run import finish_run, plan_run, preprocess, run_part
from tests.chain import preprocess_config, verified
from tests.documentation import REPOSITORY, section
from tests.preprocess.conftest import contents, token_hashes

SHARDS = 3
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
"""Keeps Ray from reporting itself, and from writing a token to the home folder."""


def example(engine):
    """The Python block of a section of the page."""
    return section(REPOSITORY / "docs/other_engines.md", engine).partition("```python\n")[2].partition("```")[0]


@pytest.fixture
def folder(tmp_path, corpus, tokenizer, monkeypatch):
    """The current directory, with the text and the tokenizer that the examples name."""
    text = tmp_path / "c4" / "en"
    text.mkdir(parents=True)
    for number, path in enumerate(corpus.train):
        shutil.copy(path, text / f"c4-train.{number:05}-of-{SHARDS:05}.json.gz")
    shutil.copytree(tokenizer.path.parent, tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_example(folder, engine):
    (folder / "example.py").write_text(example(engine))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **RAY}
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("engine", "package"), [("Ray", "ray"), ("Dask", "distributed")])
def test_engine_writes_the_bytes_of_workers(engine, package, folder):
    pytest.importorskip(package, reason=f"{package} is not installed; preprocessing with {engine} was not checked")
    run_example(folder, engine)
    reference = preprocess_config(
        input=("c4/en/*.json.gz",), tokenizer=folder / "tokenizer", output=folder / "reference", workers=2
    )
    preprocess(reference)
    assert len(token_hashes(folder / "data/pause")) == 2 * SHARDS
    assert token_hashes(folder / "data/pause") == token_hashes(folder / "reference")
    records = contents(folder / "data/pause")
    for name, content in contents(folder / "reference").items():  # the tokenizer's path is in no record
        assert records[name] == content, name


def test_datatrove_example_writes_the_bytes_of_workers(folder):
    pytest.importorskip("datatrove", reason="datatrove is not installed; its example was not checked")
    run_example(folder, "datatrove")
    kept = folder / "kept"
    kept.mkdir()
    left_out = 0
    for task, path in enumerate(sorted((folder / "c4/en").iterdir())):
        lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
        long = [line for line in lines if len(json.loads(line)["text"]) > 500]
        left_out += len(lines) - len(long)
        (kept / f"part-{task:05}-of-{SHARDS:05}.jsonl").write_bytes(b"".join(long))
    assert left_out
    reference = preprocess_config(
        input=(str(kept / "*"),),
        tokenizer=folder / "tokenizer",
        output=folder / "reference",
        also=(f"none:{folder / 'reference-standard'}",),
        workers=2,
    )
    preprocess(reference)
    assert len(token_hashes(folder / "reference")) == 2 * SHARDS
    assert token_hashes(folder / "data/pause") == token_hashes(folder / "reference")
    assert token_hashes(folder / "data/standard") == token_hashes(folder / "reference-standard")
    assert verified(folder / "data/pause").pauses > 0 == verified(folder / "data/standard").pauses


def test_parts_run_in_any_order_and_after_pickling(tmp_path, config_for):
    plan = pickle.loads(pickle.dumps(plan_run(config_for(tmp_path / "data", also=(f"none:{tmp_path / 'none'}",)))))
    finish_run(plan)
    assert not (tmp_path / "data/dataset.json").exists()
    for part in reversed(range(SHARDS)):
        with_pauses, without = run_part(plan, part)
        assert (with_pauses.index, with_pauses.documents) == (part, without.documents)
        assert with_pauses.pauses > 0 == without.pauses
    finish_run(plan)
    preprocess(config_for(tmp_path / "reference", workers=2))
    assert contents(tmp_path / "data") == contents(tmp_path / "reference")
    assert load_dataset_manifest(tmp_path / "none").pauses == 0


def test_a_plan_has_only_the_missing_parts(tmp_path, config_for):
    run_part(plan_run(config_for(tmp_path)), 1)
    plan = plan_run(config_for(tmp_path))
    assert [job.index for job in plan.jobs] == [0, 2]
    with pytest.raises(IndexError, match="part 2: the plan has 2 parts, numbered from 0"):
        run_part(plan, 2)
    with pytest.raises(IndexError, match="part -1: the plan has 2 parts"):
        run_part(plan, -1)


def test_a_part_with_a_damaged_input_is_a_user_error(tmp_path, config_for):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n')
    (tmp_path / "b.jsonl").write_text("{\n")
    plan = plan_run(config_for(tmp_path / "data", input=(str(tmp_path / "*.jsonl"),)))
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: not valid JSON"):
        run_part(plan, 1)
