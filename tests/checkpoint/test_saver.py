"""Saving goes on beside training, ends the same way for all processes, and never costs the checkpoint before."""

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
from pause_megatron.checkpoint.names import CHECKPOINTS, LATEST, MANIFEST, checkpoint_name
from pause_megatron.config.checkpoint import CheckpointConfig
from tests.checkpoint.loops import Curve, Loop, Outcome, errors_of, iteration_folder, run_loop, run_loops
from tests.disk import small_disk
from tests.distributed import run_distributed
from tests.training.runs import Run

INTERVAL, END = 3, 8
AT_ONCE = CheckpointConfig(save_interval=INTERVAL)
MEANWHILE = replace(AT_ONCE, async_save=True)
RUN = Run(last_step=END)
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[Any]:
    """``owner.name`` is ``value`` inside the block, and what it was is given."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield original
    finally:
        setattr(owner, name, original)


def run_with_slow_disk(loop: Loop) -> tuple[Outcome, list[int]]:
    """Run ``loop`` on a disk that writes the first checkpoint while two more steps are made, and no faster.

    Returns how many folders there were under a temporary name at every write, too.
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
    (at_once,) = [run_loop(Loop(run=RUN, folder=folder / "at once", checkpoint=AT_ONCE))]
    meanwhile, folders = run_with_slow_disk(Loop(run=RUN, folder=folder / "meanwhile", checkpoint=MEANWHILE))
    return at_once, meanwhile, folders


def test_both_ways_write_the_same_while_training_goes_on(tmp_path: Path) -> None:
    for at_once, meanwhile, folders in run_distributed(run_both_ways, 2, tmp_path):
        assert at_once.busy == 0
        assert meanwhile.busy >= 2
        assert meanwhile.curve == at_once.curve
        assert folders == [1, 1]
    for iteration in (3, 6):
        ours, theirs = (iteration_folder(tmp_path / way, iteration) for way in ("at once", "meanwhile"))
        assert {file.name for file in ours.iterdir()} == {*(f"rank0000{rank}.safetensors" for rank in (0, 1)), MANIFEST}
        for file in ours.iterdir():
            assert file.read_bytes() == (theirs / file.name).read_bytes(), file


def fail_on_rank_1(loops: list[Loop]) -> list[str]:
    """What each of ``loops`` ends with in this process when process 1 cannot write its second checkpoint."""

    def failing(tensors: Any, path: Path) -> None:
        if dist.get_rank() == 1 and checkpoint_name(2 * INTERVAL) in str(path):
            raise NO_SPACE
        save_file(tensors, path)

    with replaced(saver, "save_file", failing) as save_file:
        return errors_of(loops)


def test_a_process_that_cannot_write_stops_all_with_the_same_words(tmp_path: Path) -> None:
    ways = {tmp_path / "at once": AT_ONCE, tmp_path / "meanwhile": MEANWHILE}
    loops = [Loop(run=RUN, folder=folder, checkpoint=checkpoint) for folder, checkpoint in ways.items()]
    for errors in run_distributed(fail_on_rank_1, 2, loops):
        for folder, error in zip(ways, errors, strict=True):
            assert error.startswith(
                f"{iteration_folder(folder, 6)} could not be written (rank00001.safetensors: [Errno 28] No space left"
            )
    for folder in ways:
        assert sorted(path.name for path in (folder / CHECKPOINTS).iterdir()) == [checkpoint_name(3), LATEST]


def run_until_killed(loop: Loop, victim: int) -> None:
    """Run ``loop``; process ``victim`` is killed with its file of the second checkpoint half written."""

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


@pytest.mark.parametrize(("victim", "checkpoint"), [(0, MEANWHILE), (1, AT_ONCE)], ids=["rank 0", "rank 1"])
def test_killed_while_writing_the_run_goes_on_from_the_checkpoint_before(
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
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir()) == [checkpoint_name(6), LATEST]


@pytest.mark.parametrize("checkpoint", [AT_ONCE, MEANWHILE], ids=["at once", "meanwhile"])
def test_full_disk_is_told_and_costs_only_the_checkpoint_that_did_not_fit(
    undisturbed: Curve, tmp_path: Path, checkpoint: CheckpointConfig
) -> None:
    loop = Loop(run=RUN, folder=tmp_path / "disk" / "run", checkpoint=checkpoint)
    with small_disk(tmp_path / "disk", "4m") as resize:  # a checkpoint takes 3 MB
        for (error,) in run_distributed(errors_of, 2, [loop]):
            assert "could not be written" in error
            assert "No space left on device" in error
            assert "make room" in error
        assert sorted(path.name for path in (loop.folder / CHECKPOINTS).iterdir()) == [checkpoint_name(3), LATEST]
        resize("20m")
        (resumed,) = run_distributed(run_loops, 2, [loop])[0]
    assert (resumed.resumed, resumed.curve) == (3, undisturbed[3:])


def test_what_was_never_updated_is_saved_too(tmp_path: Path) -> None:
    """fp16 skips its first updates while it looks for a scale; Adam has no moments until then."""
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
