"""Finding, replacing and removing checkpoints; at every moment at least one complete checkpoint exists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.atomic import temporary_name
from pause_megatron.checkpoint.checkpoint_folders import (
    CHECKPOINTS,
    checkpoint_folders,
    checkpoint_name,
    damaged_folders,
    find_checkpoint,
    is_complete,
    latest_checkpoint,
    new_checkpoint,
    retire_old,
    set_aside,
    sweep_unfinished,
)
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.training import CheckpointConfig
from pause_megatron.errors import UserError
from tests.checkpoint.handmade import cut_short, write_checkpoint, write_iterations


def publish(run: Path, iteration: int, original: Path) -> None:
    """Add a checkpoint to ``run`` as a save does, with the files of ``original``."""
    with new_checkpoint(run / CHECKPOINTS, iteration) as temporary:
        for file in original.iterdir():
            shutil.copy(file, temporary)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


def remove_old(run: Path, config: CheckpointConfig, newest: Path) -> None:
    for folder in retire_old(run / CHECKPOINTS, config, newest=newest):
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [
        (1, 0, [50]),
        (2, 0, [40, 50]),
        (9, 0, [10, 20, 30, 40, 50]),
        (1, 20, [20, 40, 50]),
        (2, 30, [30, 40, 50]),
        (1, 10, [10, 20, 30, 40, 50]),
    ],
)
def test_newest_and_every_nth_are_kept(tmp_path: Path, keep: int, every: int, left: list[int]) -> None:
    *_, newest = write_iterations(tmp_path, 10, 20, 30, 40, 50)
    config = CheckpointConfig(keep_checkpoints=keep, keep_every=every)
    remove_old(tmp_path, config, newest)
    assert names(tmp_path) == [checkpoint_name(iteration) for iteration in left]


def test_incomplete_checkpoints_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    folders = write_iterations(tmp_path, 10, 20, 30, 40, 50, 60)
    cut_short(folders[5] / MANIFEST)
    (folders[4] / "rank00001.safetensors").unlink()
    cut_short(folders[2] / "rank00000.safetensors")
    set_aside(folders[1])
    remove_old(tmp_path, CheckpointConfig(keep_checkpoints=1), folders[3])
    damaged = f"{checkpoint_name(20)}.damaged"
    assert names(tmp_path) == sorted([damaged, *(checkpoint_name(iteration) for iteration in (30, 40, 50, 60))])


def test_just_written_checkpoint_is_kept_even_if_later_iterations_exist(tmp_path: Path) -> None:
    folders = write_iterations(tmp_path, 10, 20, 30, 40)
    remove_old(tmp_path, CheckpointConfig(keep_checkpoints=2), folders[0])
    assert names(tmp_path) == [checkpoint_name(iteration) for iteration in (10, 30, 40)]


def test_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    older, newer, newest = write_iterations(tmp_path, 999, 1000, 20_000_000)
    assert latest_checkpoint(tmp_path) == newest
    (newest / "rank00002.safetensors").unlink()
    assert latest_checkpoint(tmp_path) == find_checkpoint(tmp_path) == newer
    assert checkpoint_folders(tmp_path / CHECKPOINTS) == [newest, newer, older]


def test_named_checkpoint_or_run_is_found_or_refused(tmp_path: Path) -> None:
    (whole,) = write_iterations(tmp_path, 10)
    assert find_checkpoint(whole) == find_checkpoint(tmp_path) == whole
    (whole / MANIFEST).unlink()
    with pytest.raises(UserError, match="half-written"):
        find_checkpoint(whole)
    with pytest.raises(UserError, match="no complete checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere")


def test_damaged_checkpoints_are_set_aside_with_all_their_files(tmp_path: Path) -> None:
    for number in range(3):
        (folder,) = write_iterations(tmp_path, 10)
        (folder / "rank00002.safetensors").write_text(str(number))
        set_aside(folder)
    aside = damaged_folders(tmp_path / CHECKPOINTS)
    assert [path.name.removeprefix(checkpoint_name(10)) for path in aside] == [".damaged", ".damaged-2", ".damaged-3"]
    assert [(path / "rank00002.safetensors").read_text() for path in aside] == ["0", "1", "2"]
    assert checkpoint_folders(tmp_path / CHECKPOINTS) == []


def test_sweeping_removes_an_unfinished_save_and_nothing_else(tmp_path: Path) -> None:
    original = write_checkpoint(tmp_path / "original")
    publish(tmp_path, 10, original)
    unfinished = temporary_name(tmp_path / CHECKPOINTS / checkpoint_name(20))
    shutil.copytree(original, unfinished)
    sweep_unfinished(tmp_path / CHECKPOINTS)
    assert names(tmp_path) == [checkpoint_name(10)]


def test_sweeping_keeps_a_save_of_another_live_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with new_checkpoint(tmp_path / CHECKPOINTS, 20) as temporary:
        sweep_unfinished(tmp_path / CHECKPOINTS)
        assert temporary.exists()
    assert "is locked by another process" in capsys.readouterr().err


class PowerLossError(BaseException):
    """Simulated power loss between two system calls."""


CALLS = ("fsync", "link", "mkdir", "open", "remove", "rename", "replace", "rmdir", "unlink")


def run_until_power_loss(monkeypatch: pytest.MonkeyPatch, calls: int, action: Callable[[], Any]) -> bool:
    """Run ``action`` and stop it after ``calls`` changes to the disk; return whether it finished."""
    left = calls

    def limited(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerLossError
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, limited(getattr(os, name)))
        try:
            action()
        except PowerLossError:
            return False
    return True


def test_power_loss_while_replacing_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = write_checkpoint(tmp_path / "original")
    seen, calls, done = set(), 0, False
    while not done:
        run = tmp_path / f"run{calls}"
        write_iterations(run, 10)
        done = run_until_power_loss(monkeypatch, calls, partial(publish, run, 10, original))
        found = latest_checkpoint(run)
        assert found is not None
        CheckpointReader(found).verify()
        seen.add(found.name)
        sweep_unfinished(run / CHECKPOINTS)  # as the next run does
        assert [path.name for path in checkpoint_folders(run / CHECKPOINTS)] == [checkpoint_name(10)]
        assert set(names(run)) <= {checkpoint_name(10)}
        assert is_complete(run / CHECKPOINTS / checkpoint_name(10))
        shutil.rmtree(run)
        calls += 1
    assert seen == {checkpoint_name(10), f"{checkpoint_name(10)}.new"}  # both critical states occurred


def test_power_loss_while_removing_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, done = 0, False
    while not done:
        run = tmp_path / f"run{calls}"
        *_, newest = write_iterations(run, 10, 20, 30)
        action = partial(remove_old, run, CheckpointConfig(keep_checkpoints=1), newest)
        done = run_until_power_loss(monkeypatch, calls, action)
        folders = checkpoint_folders(run / CHECKPOINTS)
        assert folders[0] == newest
        assert all(is_complete(folder) for folder in folders)
        shutil.rmtree(run)
        calls += 1
    assert calls > 4
