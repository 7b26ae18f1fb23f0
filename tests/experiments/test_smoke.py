"""The grid ``smoke`` on real samples: nine tasks and four variants, and three tasks of it, killed and resumed.

Skipped if the samples are missing.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pause_megatron.errors import EXIT_DONE
from pause_megatron.experiments.grid_file import GRIDS
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import write_record
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import to_huggingface
from tests.downstream.random_models import random_model
from tests.downstream.real_samples import FOLDERS, SAMPLES
from tests.records.examples import example

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real samples of the nine tasks here"),
]

CONTEXT_LENGTH = 768
"""Positions of the models: every target fits, and most prompts."""
KILLED_TASKS = ("hellaswag", "lambada", "coqa")
"""Scored choices, a scored word, decoded answers; two of them learn from half of the evaluation split."""


@pytest.fixture(scope="module")
def models(tokenizer: PauseTokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return ``NAME=FOLDER`` of a model pretrained without pauses, and of one pretrained with pauses."""
    root = tmp_path_factory.mktemp("models")
    for seed, (name, pauses) in enumerate({"stdpt": "none", "pausept": "sequence"}.items()):
        random_model("gpt2", tokenizer.vocab_size, seed, context_length=CONTEXT_LENGTH).save_pretrained(root / name)
        to_huggingface(tokenizer).save_pretrained(root / name)
        report = example(ExportRecord)
        report = replace(report, pretraining=replace(report.pretraining, name=name, pauses=pauses), files=None)
        write_record(root / name / ExportRecord.FILE, report)
    return [f"stdpt={root / 'stdpt'}", f"pausept={root / 'pausept'}"]


def start(grid: str, models: list[str], output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pause_megatron", "grid", "--grid", grid, "--data", str(SAMPLES)]
    return subprocess.Popen(
        [*command, "--models", *models, "--output", str(output), "--jobs", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(grid: str, models: list[str], output: Path) -> str:
    """Run the grid to its end; return its output."""
    process = start(grid, models, output)
    _, said = process.communicate()
    assert process.returncode == EXIT_DONE, said
    return said


def results(output: Path) -> dict[str, dict[str, Any]]:
    """Return every result by task and file."""
    return {
        f"{file.parent.name}/{file.name}": json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(output.glob("evaluate/*/*.json"))
    }


def table(output: Path) -> dict[str, Any]:
    """Return metrics and samples by task and file."""
    return {name: (result["metrics"], result["samples"]) for name, result in results(output).items()}


def test_every_task_has_the_four_variants(models: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert "all 72 jobs are done" in run("smoke", models, output)
    found = results(output)
    expected = {
        (task, f"{model}_{'pauseft' if pauses else 'stdft'}", pauses)
        for task in FOLDERS
        for model in ("stdpt", "pausept")
        for pauses in (0, 2)
    }
    assert len(found) == len(expected) == 36
    assert {(each["task"], each["variant"], each["num_pauses_ft"]) for each in found.values()} == expected
    for result in found.values():
        check_result(result)
        assert {sample["pauses"] for sample in result["samples"]} == {result["num_pauses_ft"]}
    check_nothing_is_left_over(output)


def check_result(result: dict[str, Any]) -> None:
    assert result["num_samples"] == len(result["samples"]) == 4
    assert result["primary_metric"] in result["metrics"]
    assert all(math.isfinite(metric["value"]) for metric in result["metrics"].values())
    assert math.isfinite(result["finetuning"]["final_loss"])


def check_nothing_is_left_over(output: Path) -> None:
    assert not list(output.rglob(".*.work"))
    assert not list(output.rglob(".*.tmp"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Grid file with three tasks of ``smoke``: for one model, three finetunings and two results of each."""
    keys = yaml.safe_load((GRIDS / "smoke.yaml").read_text(encoding="utf-8"))
    keys |= {"tasks": {task: keys["tasks"][task] for task in KILLED_TASKS}, "num_pauses_ft": [2]}
    keys["num_pauses_inf"] = ["same", 0]
    file = tmp_path_factory.mktemp("few") / "few.yaml"
    file.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def undisturbed(few: str, models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert "all 6 jobs are done" in run(few, models[1:], output)
    return output


def test_each_task_has_a_result_for_each_number_of_pauses(undisturbed: Path) -> None:
    found = results(undisturbed)
    assert sorted(found) == sorted(
        f"{task}/pausept-ft2-inf{number}-seed0.json" for task in KILLED_TASKS for number in (0, 2)
    )
    for result in found.values():
        check_result(result)
        assert result["variant"] == "pausept_pauseft"
        assert {sample["pauses"] for sample in result["samples"]} == {result["num_pauses_inf"]}
    check_nothing_is_left_over(undisturbed)


def test_finished_grid_runs_no_command(undisturbed: Path, few: str, models: list[str]) -> None:
    def made() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for folder in ("finetune", "evaluate", "logs")
            for path in (undisturbed / folder).rglob("*")
        }

    before = made()
    said = run(few, models[1:], undisturbed)
    assert "all 6 jobs were done before" in said
    assert "$ pause-megatron" not in said
    assert made() == before


def test_killed_grid_ends_with_the_same_table(undisturbed: Path, few: str, models: list[str], tmp_path: Path) -> None:
    """Killed with all its jobs, twice: during the first finetunings, and between the results."""
    output = tmp_path / "out"
    for pattern, number in (("finetune/*/.*.work/metrics.jsonl", 1), ("evaluate/*/*.json", 1)):
        kill_once_there_are(number, pattern, start(few, models[1:], output), output)
    done_before = set(results(output))
    assert 1 <= len(done_before) < 6
    said = run(few, models[1:], output)
    assert "all 6 jobs are done" in said
    evaluated = re.findall(r"\$ pause-megatron evaluate --model \S+ --task (\w+) .*--num-pauses-inf ([\d ]*\d)", said)
    again = {f"{task}/pausept-ft2-inf{n}-seed0.json" for task, numbers in evaluated for n in numbers.split()}
    assert again == set(results(output)) - done_before
    assert table(output) == table(undisturbed)
    check_nothing_is_left_over(output)


def kill_once_there_are(number: int, pattern: str, process: subprocess.Popen[str], output: Path) -> None:
    """Send SIGKILL to ``process`` and its children as soon as ``number`` files match ``pattern``."""
    deadline = time.monotonic() + 180
    while len(list(output.glob(pattern))) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "ended before it was killed"
