"""Sinks take every record; one that is missing is refused at once, one that fails later does not end the run."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pause_megatron import log
from pause_megatron.config.logging import LoggingConfig
from pause_megatron.errors import UserError
from pause_megatron.training.watching.metrics_file import METRICS_FILE, count_restarts, open_metrics_file
from pause_megatron.training.watching.sinks import Sinks
from pause_megatron.training.watching.tensorboard import TensorBoard


def train(iteration: int, loss: float) -> dict[str, Any]:
    return {"kind": "train", "iteration": iteration, "loss": loss, "pause_embedding": {"norm": loss / 2}}


def chart(folder: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values that TensorBoard shows."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_what_counts_after_a_restart(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path)
    for iteration in (1, 2, 3, 4):
        first.write(train(iteration, 4.0))  # killed without being closed
    again = TensorBoard(tmp_path)
    again.write({"kind": "resumed", "iteration": 2, "restarts": 1})
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
def test_missing_package_is_named_with_its_flag(
    settings: dict[str, Any], package: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # how Python marks what cannot be imported
    with pytest.raises(UserError, match=f"^{flag}: the package {package} is not installed"):
        LoggingConfig(**settings)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="not checked: wandb is installed")
def test_folder_that_wandb_left_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("wandb") is not None
    with pytest.raises(UserError, match="wandb is not installed"):
        LoggingConfig(wandb_project="pauses")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not checked: this system has no /dev/full")
def test_full_disk_costs_a_record_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    sinks = Sinks([log.JsonLines(Path("/dev/full")), log.JsonLines(path)])
    for iteration in (1, 2):
        sinks.write(train(iteration, 4.0))
    sinks.close()
    assert [record["iteration"] for record in log.read_json_lines(path)] == [1, 2]
    warnings = capsys.readouterr().err
    for lost in ("the record of iteration 1", "the record of iteration 2", "its last records"):
        assert f"warning: JsonLines lost {lost}: [Errno 28] No space left on device" in warnings


def test_line_cut_short_by_an_earlier_process_does_not_run_into_the_next(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    whole = [train(1, 4.0), {"kind": "resumed", "iteration": 0}]
    path.write_text("".join(json.dumps(record) + "\n" for record in whole) + '{"kind": "tra')
    assert count_restarts(tmp_path) == 1
    file = open_metrics_file(tmp_path)
    file.write(train(2, 3.0))
    file.close()
    assert log.read_json_lines(path) == [*whole, train(2, 3.0)]


def test_new_run_has_no_restarts(tmp_path: Path) -> None:
    assert count_restarts(tmp_path) == 0
    open_metrics_file(tmp_path).close()
    assert log.read_json_lines(tmp_path / METRICS_FILE) == []
