"""``grid --dry-run`` and ``slurm/run_paper.sh --dry-run`` plan a study in a fresh checkout, without text and data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid import run_grid
from tests.slurm.site import edit_env, link_checkout


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def planned(capsys: pytest.CaptureFixture[str], *values: str, grid: str = "paper-130m") -> str:
    output = Path("out")
    run_grid(GridConfig(grid=grid, data=Path("tasks"), output=output, dry_run=True, set=values))
    assert list(Path.cwd().iterdir()) == [], "a dry run writes nothing"
    return capsys.readouterr().out


def test_every_stage_is_counted_and_missing_inputs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "pretrain.text=c4/*.json.gz", "pretrain.processes=8")
    counts = dict(re.findall(r"^(\w+) +([\d,]+) +0 +\2$", text, re.MULTILINE))
    assert (counts["pretrain"], counts["export"], counts["finetune"], counts["report"]) == ("6", "6", "810", "1")
    assert re.search(r"pretrain: text: .*/c4/\*.json.gz: no such file", text)
    assert re.search(r"tasks: gsm8k: data: .*tasks/gsm8k does not exist", text)
    assert "136,174,080 parameters" in text
    assert "200 billion tokens" in text


def test_cost_of_all_pretrainings_is_that_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "pretrain.text=c4.json.gz", "pretrain.processes=8", "pretrain.seeds=[0, 1]")
    [row] = re.findall(r"^ +8 .*$", text.partition("time at")[2].partition("disk")[0], re.MULTILINE)
    days, hours = (float(value.replace(",", "")) for value in row.split()[-2:])
    number, all_hours, all_days = re.search(
        r"all (\d+) pretrainings: ([\d,.]+) GPU-hours, ([\d,.]+) days", text
    ).groups()
    assert int(number) == 4
    assert float(all_hours.replace(",", "")) == pytest.approx(4 * hours, rel=0.01)
    assert float(all_days) == pytest.approx(4 * days, rel=0.01)
    assert re.search(r"checkpoints of [\d.]+ GB, \d+ kept", text)
    assert "best --save-interval" in text
    models = "stdpt-pt0-130m, pausept-pt0-130m, stdpt-pt1-130m, pausept-pt1-130m"
    assert f"pretraining of {models}, on 8 processes each" in text, "equal plans are printed once"


def test_models_with_other_plans_are_planned_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "pretrain.text=c4.json.gz", "pretrain.processes=8", "pretrain.seeds=[0]", grid="rivals")
    assert len(re.findall(r"^pretraining of ", text, re.MULTILINE)) > 1


def test_an_impossible_layout_is_an_error_after_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="data-parallel ranks"):
        planned(capsys, "pretrain.text=c4.json.gz", "pretrain.processes=7")
    assert "7  no: " in capsys.readouterr().out


def test_run_paper_plans_in_a_fresh_checkout(tmp_path: Path) -> None:
    checkout = link_checkout(tmp_path / "site")
    edit_env(checkout, PYTHON=sys.executable)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [str(checkout / "slurm" / "run_paper.sh"), "--dry-run", "130m"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "all 6 pretrainings: " in done.stdout
    assert sorted(tmp_path.rglob("*")) == before, "a dry run writes nothing"
