"""A process that dies or freezes ends all others, with one line that names it; nothing else does."""

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

from pause_megatron.config.faults import FaultsConfig
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


def exchange_for_ever(launch: Launch, folder: Path, faults: FaultsConfig) -> None:
    with Heartbeat(launch, faults) as heartbeat:
        heartbeat.watch_closely()
        say(folder, "training")
        while True:
            dist.all_reduce(torch.ones(1000))


def named(group: Group, rank: int) -> str:
    return f"rank {rank} ({socket.gethostname()}, pid {group.processes[rank].pid})"


@pytest.mark.parametrize("rank", [0, 2])
def test_killed_process_ends_the_others_and_is_named(tmp_path: Path, rank: int) -> None:
    """Long before any timeout: a death shows by itself."""
    with run_group(tmp_path, WORLD_SIZE, in_group, exchange_for_ever, tmp_path, FaultsConfig()) as group:
        group.wait_for("training")
        group.send(rank, signal.SIGKILL)
        assert group.exit_codes(but=rank) == [EXIT_LOST_PROCESS] * (WORLD_SIZE - 1)
        line = f"{named(group, rank)} was killed or has crashed; the same command continues"
        assert group.said().startswith(line)
        assert group.said().count("\n") == 1


@pytest.mark.parametrize("rank", [0, 2])
def test_frozen_process_ends_the_others_and_is_named(tmp_path: Path, rank: int) -> None:
    faults = FaultsConfig(dead_rank_timeout=TIMEOUT)
    with run_group(tmp_path, WORLD_SIZE, in_group, exchange_for_ever, tmp_path, faults) as group:
        group.wait_for("training")
        group.send(rank, signal.SIGSTOP)
        assert group.exit_codes(but=rank) == [EXIT_LOST_PROCESS] * (WORLD_SIZE - 1)
        assert group.said().startswith(f"{named(group, rank)} has given no sign of life for 2.5 s; the same command")
        assert group.said().count("\n") == 1
        group.send(rank, signal.SIGCONT)  # a process that comes back finds its run ended
        assert group.exit_codes() == [EXIT_LOST_PROCESS] * WORLD_SIZE


def live_through_everything(launch: Launch, folder: Path) -> None:
    """Longer than the timeout each: starting, computing, waiting in C, waiting for another process, being stopped."""
    with Heartbeat(launch, FaultsConfig(dead_rank_timeout=TIMEOUT)) as heartbeat:
        if launch.rank == 1:
            sleep_in_c(1.3 * TIMEOUT, keeps_lock=True)
        dist.barrier()
        heartbeat.watch_closely()
        if launch.rank == 0:
            sleep_in_c(1.3 * TIMEOUT, keeps_lock=False)
        if launch.rank == 1:
            compute_for(1.3 * TIMEOUT)
        dist.barrier()
        sleep_in_c(0.4 * TIMEOUT, keeps_lock=True)
        say(folder, "stoppable")
        while not collectives.max_over_ranks([(folder / "go-on").exists()])[0]:
            time.sleep(0.01)
        if launch.rank == 2:  # the others leave before
            time.sleep(1.3 * TIMEOUT)


def sleep_in_c(seconds: float, *, keeps_lock: bool) -> None:
    library = ctypes.PyDLL(None) if keeps_lock else ctypes.CDLL(None)
    library.usleep(int(seconds * 1e6))


def compute_for(seconds: float) -> None:
    matrix, ends = torch.randn(1500, 1500), time.monotonic() + seconds
    while time.monotonic() < ends:
        matrix @ matrix


def test_busy_waiting_stopped_and_leaving_processes_are_not_taken_for_dead(tmp_path: Path) -> None:
    with run_group(tmp_path, WORLD_SIZE, in_group, live_through_everything, tmp_path) as group:
        group.wait_for("stoppable")
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for rank in range(WORLD_SIZE):
                group.send(rank, number)
            time.sleep(1.3 * TIMEOUT)
        (tmp_path / "go-on").touch()
        assert group.exit_codes() == [EXIT_DONE] * WORLD_SIZE, group.said()
        assert group.said() == ""


def hold_the_lock(launch: Launch, folder: Path) -> None:
    with Heartbeat(launch, FaultsConfig(dead_rank_timeout=TIMEOUT)) as heartbeat:
        heartbeat.watch_closely()
        if launch.rank == 1:
            sleep_in_c(100, keeps_lock=True)
        dist.barrier()


def test_process_that_keeps_the_interpreter_lock_counts_as_frozen(tmp_path: Path) -> None:
    """What cannot be told apart from a frozen one, and why silence is borne with before the first step."""
    with run_group(tmp_path, 2, in_group, hold_the_lock, tmp_path) as group:
        assert group.exit_codes(but=1) == [EXIT_LOST_PROCESS]
        assert group.said().startswith(f"{named(group, 1)} has given no sign of life")


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
    ids=["a user's, of one", "ours, of rank 0", "a user's, of all", "none, all were asked to stop"],
)
def test_error_of_one_process_ends_the_others_with_its_exit_code(
    tmp_path: Path, errors: dict[int, BaseException], code: int, said: str
) -> None:
    with run_group(tmp_path, WORLD_SIZE, in_group, leave_with, errors) as group:
        assert group.exit_codes() == [code] * WORLD_SIZE
        ours = [line for line in group.said().splitlines(keepends=True) if line.startswith("rank ")]
        assert "".join(ours) == said.format(*(named(group, rank) for rank in range(WORLD_SIZE)))
        assert "gloo" not in group.said()


def connect_to_nobody(launch: Launch) -> None:
    with Heartbeat(replace(launch, local_world_size=1, master_addr="256.0.0.1"), FaultsConfig()):
        raise AssertionError("entered")


def test_rank_0_that_cannot_be_reached_is_a_users_error_of_all(tmp_path: Path) -> None:
    with run_group(tmp_path, 2, in_group, connect_to_nobody) as group:
        assert group.exit_codes() == [EXIT_USER] * 2


def fail_in_an_exchange(launch: Launch, freezes: bool) -> None:
    with Heartbeat(launch, FaultsConfig(dead_rank_timeout=1)) as heartbeat:
        heartbeat.watch_closely()
        dist.barrier()
        if launch.rank == 0:
            raise RuntimeError("[gloo] timed out")
        if freezes:
            os.kill(os.getpid(), signal.SIGSTOP)


def test_failed_exchange_waits_for_the_name_of_the_missing_process(tmp_path: Path) -> None:
    with run_group(tmp_path, 2, in_group, fail_in_an_exchange, True) as group:
        assert group.exit_codes(but=1) == [EXIT_LOST_PROCESS]
        assert group.said().startswith(f"{named(group, 1)} has given no sign of life")
        assert "gloo" not in group.said()


def test_exchange_that_fails_though_all_live_is_our_error(tmp_path: Path) -> None:
    with run_group(tmp_path, 2, in_group, fail_in_an_exchange, False) as group:
        assert group.exit_codes(but=1) == [EXIT_INTERNAL]
        assert "RuntimeError: [gloo] timed out" in group.said()


def test_process_that_is_alone_watches_nobody() -> None:
    with Heartbeat(detect_launch({}), FaultsConfig()) as heartbeat:
        heartbeat.watch_closely()
