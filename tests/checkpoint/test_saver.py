"""Asynchronous saving, and failed saves: all ranks get the same error, and the previous checkpoint stays complete."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from pause_megatron.checkpoint import saver
from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST
from pause_megatron.config.training import CheckpointConfig
from tests.checkpoint.loops import Curve, Loop, Outcome, errors_of, iteration_folder, run_loop, run_loops
from tests.disk import small_disk
from tests.distributed import run_distributed
from tests.training.runs import Run

INTERVAL, END = 3, 8
SYNCHRONOUS = CheckpointConfig(save_interval=INTERVAL)
ASYNCHRONOUS = replace(SYNCHRONOUS, async_save=True)
RUN = Run(last_step=END)
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[Any]:
    """Set ``owner.name`` to ``value`` inside the block, and yield the original."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield original
    finally:
        setattr(owner, name, original)


def run_with_slow_disk(loop: Loop) -> tuple[Outcome, list[int]]:
    """Run ``loop`` on a disk that needs two more training steps to write the first checkpoint.

    Also returns the number of temporary folders at every write.
    """
    steps, writes, folders = threading.Semaphore(0), [], []

    def slow(tensors: Any, path: Path) -> None:
        folders.append(len(list(path.parents[1].glob(".iter_*.tmp"))))
        if path.parent not in writes:
            writes.append(path.parent)
            for _ in range(INTERVAL + 2 if len(writes) == 1 else 0):
                steps.acquire()
        save_file(tensors, path)

    def counted(self: saver.CheckpointSaver, unfinished: int) -> None:
        steps.release()
        poll(self, unfinished)

    with replaced(saver, "save_file", slow) as save_file, replaced(saver.CheckpointSaver, "poll", counted) as poll:
        return run_loop(loop), folders


def run_both_ways(folder: Path) -> tuple[Outcome, Outcome, list[int]]:
    synchronous = run_loop(Loop(run=RUN, folder=folder / "synchronous", checkpoint=SYNCHRONOUS))
    asynchronous, folders = run_with_slow_disk(Loop(run=RUN, folder=folder / "asynchronous", checkpoint=ASYNCHRONOUS))
    return synchronous, asynchronous, folders


def test_asynchronous_saves_are_equal_to_synchronous_ones(tmp_path: Path) -> None:
    for synchronous, asynchronous, folders in run_distributed(run_both_ways, 2, tmp_path):
        assert synchronous.busy == 0
        assert asynchronous.busy >= 2
        assert asynchronous.curve == synchronous.curve
        assert folders == [1, 1]
    for iteration in (3, 6):
        ours, theirs = (iteration_folder(tmp_path / way, iteration) for way in ("synchronous", "asynchronous"))
        assert {file.name for file in ours.iterdir()} == {*(f"rank0000{rank}.safetensors" for rank in (0, 1)), MANIFEST}
        for file in ours.iterdir():
            assert file.read_bytes() == (theirs / file.name).read_bytes(), file


def fail_on_rank_1(loops: list[Loop]) -> list[str]:
    """Errors of ``loops`` on this rank if rank 1 cannot write its second checkpoint."""

    def failing(tensors: Any, path: Path) -> None:
        if dist.get_rank() == 1 and checkpoint_name(2 * INTERVAL) in str(path):
            raise NO_SPACE
        save_file(tensors, path)

    with replaced(saver, "save_file", failing) as save_file:
        return errors_of(loops)


def test_failed_write_on_one_rank_raises_the_same_error_on_all(tmp_path: Path) -> None:
    ways = {tmp_path / "synchronous": SYNCHRONOUS, tmp_path / "asynchronous": ASYNCHRONOUS}
    loops = [Loop(run=RUN, folder=folder, checkpoint=checkpoint) for folder, checkpoint in ways.items()]
    for errors in run_distributed(fail_on_rank_1, 2, loops):
        for folder, error in zip(ways, errors, strict=True):
            assert error.startswith(
                f"{iteration_folder(folder, 6)}: could not be written (rank00001.safetensors: [Errno 28] No space left"
            )
    for folder in ways:
        assert sorted(path.name for path in (folder / CHECKPOINTS).iterdir()) == [checkpoint_name(3)]


def run_until_killed(loop: Loop, victim: int) -> None:
    """Run ``loop``; kill rank ``victim`` when half of its file of the second checkpoint is written."""

    def torn(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        if dist.get_rank() == victim and checkpoint_name(2 * INTERVAL) in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    with replaced(saver, "save_file", torn) as save_file:
        run_loop(loop)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    loop = Loop(run=RUN, folder=tmp_path_factory.mktemp("undisturbed"))
    return list(run_distributed(run_loops, 2, [loop])[0][0].curve)


@pytest.mark.parametrize(("victim", "checkpoint"), [(0, ASYNCHRONOUS), (1, SYNCHRONOUS)], ids=["rank 0", "rank 1"])
def test_run_killed_while_saving_resumes_from_the_previous_checkpoint(
    undisturbed: Curve, tmp_path: Path, victim: int, checkpoint: CheckpointConfig
) -> None:
    loop = Loop(run=RUN, folder=tmp_path, checkpoint=replace(checkpoint, keep_checkpoints=1))
    with pytest.raises(AssertionError, match=r"rank \d (died|failed)"):
        run_distributed(run_until_killed, 2, loop, victim)
    left = {path.name for path in (tmp_path / CHECKPOINTS).iterdir()}
    assert checkpoint_name(3) in left
    assert checkpoint_name(6) not in left
    assert victim == 1 or any(name.startswith(f".{checkpoint_name(6)}.") for name in left)
    (resumed,) = run_distributed(run_loops, 2, [loop])[0]
    assert (resumed.resumed, resumed.curve) == (3, undisturbed[3:])
    assert resumed.warnings == []
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir()) == [checkpoint_name(6)]


@pytest.mark.parametrize("checkpoint", [SYNCHRONOUS, ASYNCHRONOUS], ids=["synchronous", "asynchronous"])
def test_full_or_read_only_disk_is_reported_and_loses_only_the_checkpoint_that_did_not_fit(
    undisturbed: Curve, tmp_path: Path, checkpoint: CheckpointConfig
) -> None:
    loop = Loop(run=RUN, folder=tmp_path / "disk" / "run", checkpoint=checkpoint)
    with small_disk(tmp_path / "disk", "4m") as resize:  # a checkpoint takes 3 MB
        for (error,) in run_distributed(errors_of, 2, [loop]):
            assert "could not be written" in error
            assert "No space left on device" in error
            assert "free disk space" in error
        assert sorted(path.name for path in (loop.folder / CHECKPOINTS).iterdir()) == [checkpoint_name(3)]
        resize("20m,ro")
        for (error,) in run_distributed(errors_of, 2, [loop]):
            assert "Read-only file system; choose a path that you may use" in error
        resize("20m,rw")
        (resumed,) = run_distributed(run_loops, 2, [loop])[0]
    assert (resumed.resumed, resumed.curve) == (3, undisturbed[3:])


def test_optimizer_without_an_update_can_be_saved(tmp_path: Path) -> None:
    """fp16 skips its first updates while it searches for a loss scale; until then Adam has no moments."""
    fp16 = {"fp16": {"enabled": True, "initial_scale_power": 24, "hysteresis": 1}}
    run = Run(deepspeed=fp16, last_step=5)
    first = Loop(
        run=run, folder=tmp_path, checkpoint=CheckpointConfig(save_interval=1, keep_checkpoints=1, keep_every=1)
    )
    whole, *_ = run_distributed(run_loops, 2, [first])[0]
    assert whole.curve[0][1] == float("inf")
    for iteration in (2, 3, 4, 5):
        shutil.rmtree(iteration_folder(tmp_path, iteration))
    (resumed,) = run_distributed(run_loops, 2, [replace(first, run=replace(run, seed=99))])[0]
    assert (resumed.resumed, resumed.curve) == (1, whole.curve[1:])
