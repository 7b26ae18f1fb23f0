"""A tiny study runs by one file and one command, from text to the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pause_megatron.config.experiments import GridConfig
from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from pause_megatron.experiments.grid import run_grid
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_record
from pause_megatron.records.pretraining import RunRecord
from tests.chain import write_text_and_tokenizer

from .grids import write_grid

MODEL = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 128}
TRAIN = {"deepspeed": "ds_configs/zero1_fp32.json", "train_iters": 2, "global_batch_size": 4, "micro_batch_size": 4}


def study(folder: Path) -> dict[str, Any]:
    """The keys of a study with one model of each kind."""
    return {
        "pretrain": {
            "text": str(folder / "corpus" / "*train*"),
            "tokenizer": str(folder / "tokenizer"),
            "preprocess": {"seq_length": 64, "engine": "serial"},
            "models": {"plain": {"pauses": "none"}, "again": {"pauses": "every", "train": {"pause_inputs": "repeat"}}},
            "sizes": {"tiny": MODEL},
            "seeds": [5],
            "verify": False,
            "train": {**TRAIN, "log_interval": 1},
        },
        "tasks": {"parity": str(folder / "parity")},
        "num_pauses_ft": [2],
        "finetune": {"steps": 2, "batch_size": 4, "warmup_steps": 1, "log_interval": 1, "prefix_attention": "causal"},
        "evaluate": {"limit": 4},
        "report": {"title": "A tiny study"},
    }


def run(file: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pause_megatron", "grid", "--grid", str(file), "--output", str(output), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the file of a finished study, and its output."""
    folder = tmp_path_factory.mktemp("study")
    write_text_and_tokenizer(folder)
    write_task("parity", folder / "parity", seed=0, train=40, test=8)
    done = run(write_grid(folder, **study(folder)), folder / "out", "--jobs", "2")
    assert done.returncode == EXIT_DONE, done.stderr
    assert done.stderr.endswith(f"all 10 jobs are done\n\nreport: {folder / 'out' / 'report' / 'report.html'}\n")
    return folder


def made(output: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name not in ("grid.json", ".lock")}


def test_results_and_runs_name_the_models_of_the_file(finished: Path) -> None:
    output = finished / "out"
    for name, strategy, inputs in (("plain", "none", "pause"), ("again", "every", "repeat")):
        run_record = read_record(output / "runs" / f"{name}-pt5-tiny" / "run.json", RunRecord)
        assert (run_record.model, run_record.seed, run_record.dataset.strategy) == (name, 5, strategy)
        [file] = (output / "evaluate" / "parity").glob(f"{name}-*.json")
        record = read_record(file, EvaluationRecord)
        assert record.pretrained_model == name
        assert record.pretraining is not None
        assert (record.pretraining.name, record.pretraining.seed) == (f"{name}-pt5-tiny", 5)
        assert (record.pretraining.pauses, record.pretraining.pause_inputs) == (strategy, inputs)
        assert record.pretraining.real_tokens + record.pretraining.pause_tokens == 2 * 4 * 64
    report = (output / "report" / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# A tiny study\n")
    assert "StdPT_PauseFT and PausePT_PauseFT" in report
    assert not list(output.rglob(".*.tmp"))
    assert not list(output.rglob(".*.work"))


def test_second_run_does_nothing(finished: Path) -> None:
    before = made(finished / "out")
    again = run(finished / "grid.yaml", finished / "out")
    assert again.returncode == EXIT_DONE
    assert "all 10 jobs were done before" in again.stderr
    assert "$" not in again.stderr  # no command was run
    assert made(finished / "out") == before


def listed(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    keys = study(finished)
    grid = {**keys, "pretrain": {**keys["pretrain"], **changes}}
    run_grid(GridConfig(grid=str(write_grid(tmp_path, **grid)), output=finished / "out", list=True))
    return capsys.readouterr().out


def test_grown_study_adds_only_what_is_new(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = listed(finished, tmp_path, capsys, seeds=[5, 6])
    assert said.endswith("18 jobs: 9 done, 1 unfinished, 8 to do\n")
    assert said.splitlines()[-2].startswith("unfinished  pause-megatron report")
    models = {**study(finished)["pretrain"]["models"], "tenth": {"pauses": "sequence"}}
    said = listed(finished, tmp_path, capsys, models=models)
    [preprocess] = [line for line in said.splitlines() if "pause-megatron preprocess" in line]
    assert preprocess.startswith("unfinished  pause-megatron preprocess ")
    assert "train-sequence-0.1" in preprocess
    assert "train-none" not in preprocess


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {**TRAIN, "train_iters": 3}}, r"run\.json: was made with train_iters 2, but the grid has 3"),
        ({"sizes": {"tiny": {**MODEL, "hidden_size": 64}}}, r"run\.json: was made with hidden_size 32, but .* has 64"),
        ({"preprocess": {"seq_length": 32}}, r"train-none: was made with seq_length 64, but the grid has 32"),
        ({"export": {"dtype": "bf16"}}, r"conversion_report\.json: was made with dtype fp32, but the grid has bf16"),
    ],
)
def test_outputs_of_other_settings_are_refused(
    changes: dict[str, Any], message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        listed(finished, tmp_path, capsys, **changes)


def test_layout_and_intervals_may_change(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = {**TRAIN, "log_interval": 2, "micro_batch_size": 2, "save_interval": 1, "tensor_model_parallel_size": 2}
    assert "10 jobs: 10 done" in listed(finished, tmp_path, capsys, train=train)


def test_failed_stage_holds_up_what_needs_it(finished: Path, tmp_path: Path) -> None:
    """The report is only written when every result exists."""
    keys = yaml.safe_load((finished / "grid.yaml").read_text())
    keys["pretrain"]["tokenizer"] = str(finished / "corpus")  # exists, but is no tokenizer
    keys["pretrain"]["models"] = {"plain": {"pauses": "none"}}
    done = run(write_grid(tmp_path, **keys), tmp_path / "out")
    assert done.returncode == EXIT_USER
    assert not (tmp_path / "out").exists()
    keys["pretrain"]["tokenizer"] = str(finished / "tokenizer")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "c4-train.json.gz").write_bytes(b"not gzip")
    keys["pretrain"]["text"] = str(tmp_path / "corpus" / "*")
    done = run(write_grid(tmp_path, **keys), tmp_path / "out")
    assert done.returncode == EXIT_USER
    assert "failed: preprocess-train: error: " in done.stderr
    assert "not run: pretrain-plain-pt5-tiny: needs preprocess-train" in done.stderr
    assert "not run: report: needs evaluate-parity-plain-pt5-tiny-ft2-seed0" in done.stderr
    assert json.loads((tmp_path / "out" / "grid.json").read_text())["pretrain"]["seeds"] == [5]
