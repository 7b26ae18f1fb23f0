"""Published experiments, repeated: definitions, the complete chain at tiny size, and the comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from pause_megatron.atomic import temporary_name
from pause_megatron.config.experiments import GridConfig
from pause_megatron.config.reproductions import ReproduceConfig, experiment_names
from pause_megatron.errors import EXIT_DONE, UserError
from pause_megatron.experiments.grid_file import read_grid
from pause_megatron.experiments.grid_jobs import grid_jobs
from pause_megatron.experiments.job_outputs import path_of
from pause_megatron.experiments.reproduce import (
    SETTINGS_FILE,
    remember_experiment,
    reproduction_stages,
    run_reproduction,
)
from pause_megatron.experiments.reproduction_file import is_on_text, read_experiment
from pause_megatron.experiments.reproduction_results import _over_seeds, collect_results, markdown, result_file
from pause_megatron.records.files import read_record, write_record
from pause_megatron.records.reproduction import ReproductionRecord
from tests.report.inputs import evaluation

TINY = ("finetune.steps=4", "finetune.warmup_steps=1", "sizes.train=400", "sizes.test=20")


def config_of(tmp_path: Path, name: str = "parity-hints", **settings: Any) -> ReproduceConfig:
    return ReproduceConfig(experiment=name, output=tmp_path / "out", **settings)


@pytest.mark.parametrize("name", [name for name in experiment_names() if not is_on_text(name)])
def test_grid_of_each_definition_makes_exactly_its_arms(name: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, name)
    experiment = read_experiment(config)
    seed = experiment.seeds[0]
    stages = list(reproduction_stages(experiment, config.output, jobs=1))
    [write] = [step for stage in stages for step in stage.steps if step.name == f"grid-file-seed{seed}"]
    assert callable(write.action)
    write.action()
    folder = config.output / f"seed{seed}"
    grid = read_grid(GridConfig(grid=str(folder / "grid.yaml"), output=folder / "grid"))
    made = [path_of(output) for job in grid_jobs(grid, folder / "grid", "test") for output in job.outputs
            if job.stage == "evaluate"]  # fmt: skip
    assert sorted(made) == sorted(result_file(experiment, arm, folder, seed) for arm in experiment.arms)


def test_flags_replace_values_of_the_definition(tmp_path: Path) -> None:
    experiment = read_experiment(config_of(tmp_path, bits=100, seeds=(7,), set=("finetune.steps=9", "sizes.train=5")))
    assert experiment.parameters["bits"] == 100
    assert [experiment.num_pauses(arm) for arm in experiment.arms] == [100, 100, 0]
    assert experiment.positions == 224  # 101 characters, 100 pauses, an answer
    assert experiment.seeds == (7,)
    assert (experiment.finetune["steps"], experiment.sizes["train"]) == (9, 5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("chess", {}, r"--experiment chess: unknown; choose from 3sum, c4-every, parity, parity-hints"),
        ("3sum", {"bits": 20}, r"--bits 20: 3sum has no bits"),
        ("parity", {"set": ("parameters.pairs=3",)}, r"--experiment parity: parameters: unknown key 'pairs'"),
        ("parity", {"set": ("sizes.dev=3",)}, r"sizes: unknown key 'dev'"),
        ("parity", {"set": ("model.vocab_size=9",)}, r"model: unknown key 'vocab_size'"),
        ("parity", {"set": ("finetune.hint_weight=1",)}, r"finetune: hint_weight: other keys of the grid set it"),
        ("parity", {"set": ("speed=1",)}, r"--experiment parity: unknown key 'speed'"),
        ("parity", {"set": ("differences=[[pauses, none]]",)}, r"differences: unknown arm 'none'"),
        ("parity", {"set": ("seeds=[]",)}, r"'seeds' is empty"),
        ("parity", {"set": ("parameters.bits=many",)}, r"parameters: bits: Expected `int`"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_experiment(config_of(tmp_path, name, **settings))


SCORES = {"pauses with labels": (1.0, 0.998), "pauses without labels": (0.5, 0.52), "no pauses": (0.48, 0.51)}


@pytest.fixture
def record(tmp_path: Path) -> ReproductionRecord:
    """A record of two seeds, from result files as ``evaluate`` writes them."""
    experiment = read_experiment(config_of(tmp_path, seeds=(0, 1)))
    for arm in experiment.arms:
        for seed, value in enumerate(SCORES[arm.name]):
            one = evaluation(
                variant="stdpt_pauseft",
                num_pauses_ft=experiment.num_pauses(arm),
                hint_weight=arm.hint_weight or None,
                seed=seed,
                value=value,
                prompt_tokens=21.0,
            )
            path = result_file(experiment, arm, tmp_path / f"seed{seed}", seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_record(path, one)
    return collect_results("parity-hints", experiment, tmp_path, config_of(tmp_path, bits=20).changes)


def test_record_has_every_seed_with_both_intervals(record: ReproductionRecord, tmp_path: Path) -> None:
    hinted, plain, none = record.arms
    assert (hinted.values, plain.values, none.values) == tuple(SCORES.values())
    assert [arm.num_pauses for arm in record.arms] == [20, 20, 0]
    wilson = stats.binomtest(999, 1000).proportion_ci(method="wilson")  # 500 items of each seed
    assert astuple(hinted.item_interval) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    assert plain.seed_interval is not None
    assert astuple(plain.seed_interval) == pytest.approx(
        (0.51 - 0.1271, 0.51 + 0.1271), abs=1e-4
    )  # t of one degree of freedom
    assert hinted.tokens == 300 * 64 * (21 + 20 + len("odd") + 1)
    first, second = record.differences
    assert (first.first, first.second, first.value) == (
        "pauses with labels",
        "pauses without labels",
        pytest.approx(0.489),
    )
    low, high = stats.t.interval(0.95, 1, loc=0.015, scale=0.005)  # the seeds differ by 0.02 and 0.01
    assert second.interval is not None
    assert astuple(second.interval) == pytest.approx((low, high), abs=1e-9)
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json", ReproductionRecord) == record


def test_table_puts_the_published_numbers_beside_ours(record: ReproductionRecord) -> None:
    lines = markdown(record).splitlines()
    [row] = [line for line in lines if line.startswith("| pauses with labels |")]
    assert "| 20 | 1.000, 0.998 | 0.999 | 0.994 to 1.000 |" in row
    assert "about 1.00 (20 to 300 bits)" in row
    assert "| pauses without labels - no pauses | +0.015 | -0.049 to +0.079 |" in lines
    assert record.deviations[-1] == "Changed for this run: bits 20."
    assert all(f"- {deviation}" in lines for deviation in record.deviations)


def test_result_with_other_hints_is_refused(record: ReproductionRecord, tmp_path: Path) -> None:
    experiment = read_experiment(config_of(tmp_path, seeds=(0, 1)))
    hinted = replace(experiment.arms[1], hint_weight=0.0)
    path = result_file(experiment, hinted, tmp_path / "seed0", 0)
    write_record(path, evaluation(variant="stdpt_pauseft", num_pauses_ft=20, hint_weight=2.0))
    with pytest.raises(UserError, match="pauses without labels: its result was made with other hints"):
        collect_results("parity-hints", experiment, tmp_path)


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty and holds no experiment"):
        run_reproduction(config_of(tmp_path))


def test_a_folder_of_a_run_that_was_killed_at_its_first_file_is_used(tmp_path: Path) -> None:
    leftover = temporary_name(tmp_path / SETTINGS_FILE)
    leftover.write_text("{")
    config = ReproduceConfig(experiment="parity", output=tmp_path)
    remember_experiment(read_experiment(config), config)
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS_FILE]


def reproduce(output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pause_megatron",
        "reproduce",
        "parity-hints",
        "--output",
        str(output),
        "--jobs",
        "2",
    ]
    return subprocess.run([*command, "--set", *TINY, *flags], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_experiment_runs_to_its_table_and_takes_another_seed_later(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = reproduce(output, "--seeds", "0")
    assert done.returncode == EXIT_DONE, done.stderr[-3000:]
    assert "| no pauses | 0 |" in done.stdout
    initial = output / "seed0" / "model" / "model.safetensors"
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    assert initial in times
    assert reproduce(output, "--seeds", "0", "1").returncode == EXIT_DONE
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "nothing was made twice"
    record = read_record(output / ReproductionRecord.FILE, ReproductionRecord)
    assert [len(arm.values) for arm in record.arms] == [2, 2, 2]
    values = json.loads((output / "report" / "report.json").read_text(encoding="utf-8"))
    assert [one["seeds"] for one in values["reproductions"]] == [[0, 1]]
    page = (output / "report" / "report.html").read_text(encoding="utf-8")
    assert "Published experiments, repeated" in page
    other = reproduce(output, "parameters.bits=12")
    assert "holds an experiment with another 'parameters' than" in other.stderr


def test_interval_over_seeds_stays_within_possible_shares() -> None:
    """Student's interval of 1.000, 0.998 and 0.999 would end above 1."""
    near_one, far_apart = _over_seeds([1.0, 0.998, 0.999], least=0.0), _over_seeds([0.0, 1.0], least=0.0)
    assert near_one is not None
    assert far_apart is not None
    assert astuple(near_one)[1] == 1.0
    assert astuple(near_one)[0] > 0.99
    assert astuple(far_apart) == (0.0, 1.0)
    assert astuple(_over_seeds([-1.0, 1.0], least=-1.0) or far_apart) == (-1.0, 1.0)
