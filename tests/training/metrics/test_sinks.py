"""Sinks of metrics: a missing package is refused at once, and a sink that fails later does not end the run."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pause_megatron.config.training import LoggingConfig
from pause_megatron.errors import UserError
from pause_megatron.records.files import line_of, read_record_lines
from pause_megatron.records.pretraining import (
    METRICS_FILE,
    METRICS_KINDS,
    PauseEmbeddingRecord,
    ResumedRecord,
    TrainRecord,
    ValidationRecord,
)
from pause_megatron.training.metrics.sinks import MetricsFile, Sinks, TensorBoard, count_restarts, scalars
from tests.records.examples import example


def train(iteration: int, loss: float) -> TrainRecord:
    embedding = replace(example(PauseEmbeddingRecord), norm=loss / 2)
    return replace(example(TrainRecord), iteration=iteration, loss=loss, pause_embedding=embedding)


def resumed(iteration: int) -> ResumedRecord:
    return replace(example(ResumedRecord), iteration=iteration)


def chart(folder: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values that TensorBoard shows."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_hides_steps_that_a_crash_lost(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path)
    for iteration in (1, 2, 3, 4):
        first.write(train(iteration, 4.0))  # killed before it is closed
    again = TensorBoard(tmp_path)
    again.write(resumed(2))
    again.write(train(3, 2.0))
    again.close()
    assert chart(tmp_path, "train/loss") == [(1, 4.0), (2, 4.0), (3, 2.0)]
    assert chart(tmp_path, "train/pause_embedding/norm") == [(1, 2.0), (2, 2.0), (3, 1.0)]


@pytest.mark.parametrize(
    ("settings", "package", "flag"),
    [
        ({"tensorboard": True}, "tensorboard", "--tensorboard"),
        ({"wandb_project": "pauses"}, "wandb", "--wandb-project pauses"),
    ],
)
def test_missing_package_is_reported_with_its_flag(
    settings: dict[str, Any], package: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # how Python marks what cannot be imported
    with pytest.raises(UserError, match=f"^{flag}: needs the package {package}, which is not installed"):
        LoggingConfig(**settings)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="not checked: wandb is installed")
def test_a_folder_that_wandb_wrote_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("wandb") is not None
    with pytest.raises(UserError, match="needs the package wandb, which is not installed"):
        LoggingConfig(wandb_project="pauses")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not checked: this system has no /dev/full")
def test_full_disk_costs_a_record_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    sinks = Sinks([MetricsFile(Path("/dev/full")), MetricsFile(path)])
    for iteration in (1, 2):
        sinks.write(train(iteration, 4.0))
    sinks.close()
    assert [record.iteration for record in read_record_lines(path, METRICS_KINDS)] == [1, 2]
    warnings = capsys.readouterr().err
    for lost in ("the record of iteration 1", "the record of iteration 2", "its last records"):
        assert f"warning: MetricsFile lost {lost}: [Errno 28] No space left on device" in warnings


def test_incomplete_last_line_of_an_earlier_process_is_removed(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    complete = [train(1, 4.0), resumed(0)]
    path.write_text("".join(json.dumps(line_of(record)) + "\n" for record in complete) + '{"kind": "tra')
    assert count_restarts(tmp_path) == 1
    file = MetricsFile(path)
    file.write(train(2, 3.0))
    file.close()
    assert read_record_lines(path, METRICS_KINDS) == [*complete, train(2, 3.0)]


def test_new_run_has_no_restarts(tmp_path: Path) -> None:
    assert count_restarts(tmp_path) == 0
    MetricsFile(tmp_path / METRICS_FILE).close()
    assert count_restarts(tmp_path) == 0


def test_charts_are_named_by_kind_dataset_and_group() -> None:
    charts = scalars(replace(train(7, 2.0), loss_by_pause_run={"1": 3.0}, perplexity=math.inf))
    assert (charts["train/loss"], charts["train/loss_by_pause_run/1"]) == (2.0, 3.0)
    assert charts["train/pause_embedding/norm"] == 1.0
    assert not charts.keys() & {"train/perplexity", "train/iteration", "train/kind"}
    validation = ValidationRecord(
        iteration=7, dataset="held-out", pauses="none", loss=2.0, perplexity=7.4, real_tokens=10
    )
    assert scalars(validation) == {
        "validation/held-out/loss": 2.0,
        "validation/held-out/perplexity": 7.4,
        "validation/held-out/real_tokens": 10,
    }
