"""The grid ``smoke`` for real: nine tasks on real samples, the paper's four variants; repeated, and killed on the way.

Where the samples are not at hand this skips and says so.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pause_megatron.errors import EXIT_DONE
from pause_megatron.experiments.grid_file import GRIDS
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import to_huggingface
from tests.downstream.random_models import random_model
from tests.downstream.real_samples import FOLDERS, SAMPLES

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real samples of the nine tasks here")

CONTEXT_LENGTH = 768
"""Positions of the models: every target fits, and most prompts."""
KILLED_TASKS = ("hellaswag", "lambada", "coqa")
"""Scored choices, a scored word, decoded answers; two of them learn from half of what others evaluate."""
JOBS = 72
RESULTS = 36


@pytest.fixture(scope="module")
def models(tokenizer: PauseTokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags that name an export of a model pretrained without pauses, and of one pretrained with them."""
    root = tmp_path_factory.mktemp("models")
    for seed, (name, pauses) in enumerate({"stdpt": "none", "pausept": "sequence"}.items()):
        random_model("gpt2", tokenizer.vocab_size, seed, context_length=CONTEXT_LENGTH).save_pretrained(root / name)
        to_huggingface(tokenizer).save_pretrained(root / name)
        report = {"pretraining": {"name": name, "pauses": pauses}}
        (root / name / "conversion_report.json").write_text(json.dumps(report))
    return ["--models", f"stdpt={root / 'stdpt'}", f"pausept={root / 'pausept'}"]


def start(grid: str, models: list[str], output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pause_megatron", "grid", "--grid", grid, *models, "--data", str(SAMPLES)]
    return subprocess.Popen(
        [*command, "--output", str(output), "--jobs", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(grid: str, models: list[str], output: Path) -> str:
    """Run the grid to its end; returns what it said."""
    process = start(grid, models, output)
    _, said = process.communicate()
    assert process.returncode == EXIT_DONE, said
    return said


def results(output: Path) -> dict[str, dict[str, Any]]:
    """Every result by task and file."""
    return {
        f"{file.parent.name}/{file.name}": json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(output.glob("evaluate/*/*.json"))
    }


def table(output: Path) -> dict[str, Any]:
    """What was measured, by task and file."""
    return {name: (result["metrics"], result["samples"]) for name, result in results(output).items()}


@pytest.fixture(scope="module")
def undisturbed(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("smoke") / "out"
    assert f"all {JOBS} jobs are done" in run("smoke", models, output)
    return output


def test_every_task_has_the_four_variants(undisturbed: Path) -> None:
    found = results(undisturbed)
    expected = {
        (task, f"{model}_{'pauseft' if pauses else 'stdft'}", pauses)
        for task in FOLDERS
        for model in ("stdpt", "pausept")
        for pauses in (0, 2)
    }
    assert len(found) == len(expected) == RESULTS
    assert {(each["task"], each["variant"], each["num_pauses_ft"]) for each in found.values()} == expected
    for result in found.values():
        assert result["num_samples"] == len(result["samples"]) == 4
        assert {sample["pauses"] for sample in result["samples"]} == {result["num_pauses_ft"]}
        assert result["primary_metric"] in result["metrics"]
        assert all(math.isfinite(metric["value"]) for metric in result["metrics"].values())
        assert math.isfinite(result["finetuning"]["final_loss"])
    assert not list(undisturbed.rglob(".*.work"))
    assert not list(undisturbed.rglob(".*.tmp"))


def test_finished_it_does_nothing(undisturbed: Path, models: list[str]) -> None:
    def made() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for folder in ("finetune", "evaluate", "logs")
            for path in (undisturbed / folder).rglob("*")
        }

    before = made()
    assert len(before) > RESULTS
    said = run("smoke", models, undisturbed)
    assert f"all {JOBS} jobs were done before" in said
    assert "$ pause-megatron" not in said
    assert made() == before


def test_killed_it_ends_with_the_same_table(undisturbed: Path, models: list[str], tmp_path: Path) -> None:
    """Killed with all its jobs, twice: while the first models are finetuned, and between the results."""
    keys = yaml.safe_load((GRIDS / "smoke.yaml").read_text(encoding="utf-8"))
    keys["tasks"] = {task: keys["tasks"][task] for task in KILLED_TASKS}
    grid, output = tmp_path / "few.yaml", tmp_path / "out"
    grid.write_text(yaml.safe_dump(keys), encoding="utf-8")
    for pattern, number in (("finetune/*/.*.work/metrics.jsonl", 1), ("evaluate/*/*.json", 5)):
        kill_once_there_are(number, pattern, start(str(grid), models, output), output)
    done_before = len(results(output))
    assert 5 <= done_before < 12
    said = run(str(grid), models, output)
    assert "all 24 jobs are done" in said
    assert said.count("$ pause-megatron evaluate") == 12 - done_before
    expected = {name: each for name, each in table(undisturbed).items() if name.partition("/")[0] in KILLED_TASKS}
    assert len(expected) == 12
    assert table(output) == expected
    assert not list(output.rglob(".*.work"))
    assert not list(output.rglob(".*.tmp"))


def kill_once_there_are(number: int, pattern: str, process: subprocess.Popen[str], output: Path) -> None:
    """Kill ``process`` and its children, without warning, as soon as ``number`` files of ``pattern`` are there."""
    deadline = time.monotonic() + 180
    while len(list(output.glob(pattern))) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "ended before it was killed"
