"""A process that dies or hangs ends all others, and one line names it; nothing else ends them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pause_megatron.config.training import FaultsConfig
from pause_megatron.errors import (
    EXIT_DONE,
    EXIT_INTERNAL,
    EXIT_LOST_PROCESS,
    EXIT_REQUEUE,
    EXIT_USER,
    StoppedEarly,
    UserError,
)
from pause_megatron.parallel import collectives
from pause_megatron.parallel.heartbeat import Heartbeat
from pause_megatron.parallel.launcher import Launch, detect_launch
from tests.parallel.dying import Group, run_group, say

WORLD_SIZE = 3
TIMEOUT = 2.5


def in_group(function: Callable[..., None], *arguments: Any) -> None:
    """Call ``function(launch, *arguments)`` in a process of a gloo group."""
    dist.init_process_group("gloo")
    function(detect_launch(), *arguments)


def all_reduce_forever(launch: Launch, folder: Path, faults: FaultsConfig) -> None:
    with Heartbeat(launch, faults) as heartbeat:
        heartbeat.shorten_timeout()
        say(folder, "training")
        while True:
            dist.all_reduce(torch.ones(1000))


def named(group: Group, rank: int) -> str:
    return f"rank {rank} ({socket.gethostname()}, pid {group.processes[rank].pid})"


@pytest.mark.parametrize("rank", [0, 2])
def test_killed_process_ends_the_others_and_is_named(tmp_path: Path, rank: int) -> None:
    """The closed connection shows the death, long before any timeout."""
    with run_group(tmp_path, WORLD_SIZE, in_group, all_reduce_forever, tmp_path, FaultsConfig()) as group:
        group.wait_for("training")
        group.send(rank, signal.SIGKILL)
        assert group.exit_codes(but=rank) == [EXIT_LOST_PROCESS] * (WORLD_SIZE - 1)
        line = f"{named(group, rank)} was killed or has crashed; the same command resumes"
        assert group.said().startswith(line)
        assert group.said().count("\n") == 1


@pytest.mark.parametrize("rank", [0, 2])
def test_stopped_process_ends_the_others_and_is_named(tmp_path: Path, rank: int) -> None:
    faults = FaultsConfig(dead_rank_timeout=TIMEOUT)
    with run_group(tmp_path, WORLD_SIZE, in_group, all_reduce_forever, tmp_path, faults) as group:
        group.wait_for("training")
        group.send(rank, signal.SIGSTOP)
        assert group.exit_codes(but=rank) == [EXIT_LOST_PROCESS] * (WORLD_SIZE - 1)
        assert group.said().startswith(f"{named(group, rank)} has sent no heartbeat for 2.5 s; the same command")
        assert group.said().count("\n") == 1
        group.send(rank, signal.SIGCONT)  # a process that continues finds its run ended
        assert group.exit_codes() == [EXIT_LOST_PROCESS] * WORLD_SIZE


def survive_all_kinds_of_waiting(launch: Launch, folder: Path) -> None:
    """Start, compute, sleep in C, wait for another process and be stopped, each for longer than the timeout."""
    with Heartbeat(launch, FaultsConfig(dead_rank_timeout=TIMEOUT)) as heartbeat:
        if launch.rank == 1:
            sleep_in_c(1.3 * TIMEOUT, holds_gil=True)
        dist.barrier()
        heartbeat.shorten_timeout()
        if launch.rank == 0:
            sleep_in_c(1.3 * TIMEOUT, holds_gil=False)
        if launch.rank == 1:
            compute_for(1.3 * TIMEOUT)
        dist.barrier()
        sleep_in_c(0.4 * TIMEOUT, holds_gil=True)
        say(folder, "ready to be stopped")
        while not collectives.max_over_ranks([(folder / "continue").exists()])[0]:
            time.sleep(0.01)
        if launch.rank == 2:  # the others leave earlier
            time.sleep(1.3 * TIMEOUT)


def sleep_in_c(seconds: float, *, holds_gil: bool) -> None:
    library = ctypes.PyDLL(None) if holds_gil else ctypes.CDLL(None)
    library.usleep(int(seconds * 1e6))


def compute_for(seconds: float) -> None:
    matrix, ends = torch.randn(1500, 1500), time.monotonic() + seconds
    while time.monotonic() < ends:
        matrix @ matrix


def test_busy_waiting_stopped_and_leaving_processes_do_not_count_as_dead(tmp_path: Path) -> None:
    with run_group(tmp_path, WORLD_SIZE, in_group, survive_all_kinds_of_waiting, tmp_path) as group:
        group.wait_for("ready to be stopped")
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for rank in range(WORLD_SIZE):
                group.send(rank, number)
            time.sleep(1.3 * TIMEOUT)
        (tmp_path / "continue").touch()
        assert group.exit_codes() == [EXIT_DONE] * WORLD_SIZE, group.said()
        assert group.said() == ""


def hold_the_gil(launch: Launch, folder: Path) -> None:
    with Heartbeat(launch, FaultsConfig(dead_rank_timeout=TIMEOUT)) as heartbeat:
        heartbeat.shorten_timeout()
        if launch.rank == 1:
            sleep_in_c(100, holds_gil=True)
        dist.barrier()


def test_process_that_holds_the_interpreter_lock_counts_as_dead(tmp_path: Path) -> None:
    """It cannot be distinguished from a hung process; the timeout is therefore longer before the first step."""
    with run_group(tmp_path, 2, in_group, hold_the_gil, tmp_path) as group:
        assert group.exit_codes(but=1) == [EXIT_LOST_PROCESS]
        assert group.said().startswith(f"{named(group, 1)} has sent no heartbeat")


def leave_with(launch: Launch, errors: dict[int, BaseException]) -> None:
    with Heartbeat(launch, FaultsConfig()):
        if launch.rank in errors:
            raise errors[launch.rank]
        dist.barrier()


@pytest.mark.parametrize(
    ("errors", "code", "said"),
    [
        ({1: UserError("no such file")}, EXIT_USER, "{1} has left with exit code 2: no such file\n"),
        ({0: ValueError("a bug\nin it")}, EXIT_INTERNAL, "{0} has left with exit code 1: ValueError: a bug in it\n"),
        (dict.fromkeys(range(WORLD_SIZE), UserError("bad")), EXIT_USER, ""),
        (dict.fromkeys(range(WORLD_SIZE), StoppedEarly("time is up")), EXIT_REQUEUE, ""),
    ],
    ids=["user error on one rank", "bug on rank 0", "user error on all ranks", "all stopped on request"],
)
def test_error_of_one_process_ends_the_others_with_its_exit_code(
    tmp_path: Path, errors: dict[int, BaseException], code: int, said: str
) -> None:
    with run_group(tmp_path, WORLD_SIZE, in_group, leave_with, errors) as group:
        assert group.exit_codes() == [code] * WORLD_SIZE
        ours = [line for line in group.said().splitlines(keepends=True) if line.startswith("rank ")]
        assert "".join(ours) == said.format(*(named(group, rank) for rank in range(WORLD_SIZE)))
        assert "gloo" not in group.said()


def connect_to_an_unknown_host(launch: Launch) -> None:
    with Heartbeat(replace(launch, local_world_size=1, master_addr="256.0.0.1"), FaultsConfig()):
        raise AssertionError("entered")


def test_unreachable_rank_0_is_a_user_error_on_every_rank(tmp_path: Path) -> None:
    with run_group(tmp_path, 2, in_group, connect_to_an_unknown_host) as group:
        assert group.exit_codes() == [EXIT_USER] * 2


def fail_in_a_collective(launch: Launch, other_rank_hangs: bool) -> None:
    with Heartbeat(launch, FaultsConfig(dead_rank_timeout=1)) as heartbeat:
        heartbeat.shorten_timeout()
        dist.barrier()
        if launch.rank == 0:
            raise RuntimeError("[gloo] timed out")
        if other_rank_hangs:
            os.kill(os.getpid(), signal.SIGSTOP)


def test_failed_collective_waits_until_the_missing_process_is_known(tmp_path: Path) -> None:
    with run_group(tmp_path, 2, in_group, fail_in_a_collective, True) as group:
        assert group.exit_codes(but=1) == [EXIT_LOST_PROCESS]
        assert group.said().startswith(f"{named(group, 1)} has sent no heartbeat")
        assert "gloo" not in group.said()


def test_failed_collective_with_all_processes_alive_is_an_internal_error(tmp_path: Path) -> None:
    with run_group(tmp_path, 2, in_group, fail_in_a_collective, False) as group:
        assert group.exit_codes(but=1) == [EXIT_INTERNAL]
        assert "RuntimeError: [gloo] timed out" in group.said()


def test_run_of_one_process_needs_no_monitor() -> None:
    with Heartbeat(detect_launch({}), FaultsConfig()) as heartbeat:
        heartbeat.shorten_timeout()
