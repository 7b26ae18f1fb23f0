"""Finetuning is killed at random moments and around its renames; the same command then ends as an undisturbed run.

A killed run is repeated once. Its weights, metrics and record must then be those of a run to which nothing happened,
and nothing may remain beside its output.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.errors import EXIT_DONE, EXIT_LOST_PROCESS, EXIT_USER
from tests.parallel.dying import run_group
from tests.quick import others_slow

STEPS = 6
RENAMES = "renames.log"
TIMEOUT = 3.0
STEPS_OF_LOST = 60
"""Steps of the runs that lose a process: enough that they last longer than the first state."""
KILLS = 20
"""Kills of the slow test, for each number of processes: half of them around renames."""


@dataclass(frozen=True)
class Around:
    """The moment just before or just after rank 0 renames a file or folder for the ``number``-th time, from 0."""

    number: int
    after: bool


@dataclass(frozen=True)
class Later:
    """The moment ``seconds`` after all processes have started to finetune; it is ``rank`` that dies."""

    seconds: float
    rank: int


@dataclass(frozen=True)
class Undisturbed:
    """What a run does that is not killed."""

    config: FinetuneConfig
    processes: int
    renames: tuple[str, ...]
    """Final names of files and folders that rank 0 renames, in order."""
    seconds: float


def finetune_until(moment: Around | Later | None, config: FinetuneConfig, folder: Path) -> None:
    """Finetune, and be killed at ``moment``; without one, write down the renames and the time that it takes."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world_size == 1:  # as without a launcher
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
    if rank == 0:
        watch_renames(moment, folder / RENAMES)
    (folder / f"started.{rank}").touch()
    started = time.monotonic()
    finetune(config)
    if moment is None and rank == 0:
        (folder / "seconds").write_text(str(time.monotonic() - started))


def watch_renames(moment: Around | Later | None, log: Path) -> None:
    numbers, dying = count(), False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal dying
        if dying:  # the rename is done: this is the next thing that the process does
            dying = False  # killing is an event too
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "os.rename":
            number = next(numbers)
            if moment is None:
                with open(log, "a", encoding="utf-8") as file:
                    file.write(f"{arguments[1]}\n")
            elif isinstance(moment, Around) and moment.number == number:
                if moment.after:
                    dying = True
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.fixture(scope="module")
def config(model_path, parity_data, tmp_path_factory) -> FinetuneConfig:
    return FinetuneConfig(
        model=model_path("gpt2"),
        task="parity",
        data=parity_data,
        output=tmp_path_factory.mktemp("kills") / "finetuned",
        pausing=FinetunePausing(num_pauses_ft=2),
        steps=STEPS,
        batch_size=8,
        warmup_steps=1,
        schedule="constant",  # another step would change the weights
        log_interval=1,
        save_interval=2,
    )


def in_folder(config: FinetuneConfig, root: Path) -> FinetuneConfig:
    """Return ``config`` with its output in the new folder ``root``."""
    root.mkdir()
    return replace(config, output=root / config.output.name)


def undisturbed(config: FinetuneConfig, root: Path, processes: int) -> Undisturbed:
    config, log = in_folder(config, root), root.with_name(f"{root.name}-log")
    with run_group(log, processes, finetune_until, None, config, log) as group:
        assert group.exit_codes() == [EXIT_DONE] * processes, group.said()
    renames = tuple(Path(line).name for line in (log / RENAMES).read_text().splitlines())
    assert [path.name for path in root.iterdir()] == ["finetuned"]
    return Undisturbed(config, processes, renames, float((log / "seconds").read_text()))


def assert_killed_run_ends_as(expected: Undisturbed, moments: Sequence[Around | Later]) -> None:
    for number, moment in enumerate(moments):
        root = expected.config.output.parent.with_name(f"killed-{number}")
        config, log = in_folder(expected.config, root), root.with_name(f"{root.name}-log")
        with run_group(log, expected.processes, finetune_until, moment, config, log) as group:
            victim = 0
            if isinstance(moment, Later):
                victim = moment.rank
                group.wait_for("started")
                time.sleep(moment.seconds)
                with suppress(ProcessLookupError):  # it was faster
                    group.send(victim, signal.SIGKILL)
            group.processes[victim].join()
            codes = [-signal.SIGKILL] if isinstance(moment, Around) else [-signal.SIGKILL, EXIT_DONE]
            assert group.processes[victim].exitcode in codes, (moment, group.said())
        is_complete = config.output.exists()
        with run_group(log, expected.processes, finetune_until, None, config, log) as group:
            codes = [EXIT_USER if is_complete else EXIT_DONE] * expected.processes
            assert group.exit_codes() == codes, (moment, group.said())
        assert [path.name for path in root.iterdir()] == ["finetuned"], moment
        assert content(config.output) == content(expected.config.output), moment


def content(output: Path) -> dict[str, Any]:
    record = json.loads((output / "finetune.json").read_text())
    for key in ("seconds", "config"):
        del record[key]
    return {path.name: path.read_bytes() for path in output.iterdir()} | {"finetune.json": record}


def test_run_killed_around_its_last_renames_ends_as_the_undisturbed_one(config, tmp_path):
    expected = undisturbed(config, tmp_path / "undisturbed", 1)
    names = expected.renames
    assert names[-1] == "finetuned"
    manifests = [number for number, name in enumerate(names) if name == "manifest.json"]
    assert len(manifests) == STEPS // 2
    moments = [Around(manifests[1], after=False), Around(manifests[-1], after=True)]
    moments += [Around(len(names) - 1, after=False), Around(len(names) - 1, after=True)]
    assert_killed_run_ends_as(expected, moments)


def finetune_with_slow_rank_1(config: FinetuneConfig) -> None:
    """Finetune; rank 1 loads its state when rank 0 has removed it, or after a long time."""
    load, deadline = torch.load, time.monotonic() + 15

    def late(*given: Any, **named: Any) -> Any:
        while os.environ["RANK"] == "1" and config.work_folder.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return load(*given, **named)

    torch.load = late
    finetune(config)


def test_state_stays_until_every_rank_has_loaded_it(config, tmp_path):
    """A run killed after its last state: rank 0 has nothing to train and could remove the state at once."""
    expected = undisturbed(config, tmp_path / "undisturbed", 2)
    config, log = in_folder(config, tmp_path / "killed"), tmp_path / "log"
    moment = Around(len(expected.renames) - 1, after=False)
    with run_group(log, 2, finetune_until, moment, config, log) as group:
        group.processes[0].join()
    with run_group(log, 2, finetune_with_slow_rank_1, config) as group:
        assert group.exit_codes() == [EXIT_DONE] * 2, group.said()
    assert content(config.output) == content(expected.config.output)
    assert [path.name for path in config.output.parent.iterdir()] == ["finetuned"]


@pytest.mark.parametrize("rank", others_slow((0, 1), quick=[1]))
@pytest.mark.parametrize("number", others_slow((signal.SIGSTOP, signal.SIGKILL), quick=[signal.SIGSTOP]))
def test_lost_process_ends_the_other_and_is_named(config, tmp_path, number, rank):
    """The rerun, which may wait with another timeout, ends as the undisturbed run."""
    config, log = replace(in_folder(config, tmp_path / "lost"), steps=STEPS_OF_LOST), tmp_path / "log"
    with run_group(log, 2, finetune, replace(config, dead_rank_timeout=TIMEOUT)) as group:
        while not list(config.work_folder.glob("*/manifest.json")):
            group.processes[0].join(0.02)
            assert not group.has_ended(), group.said()
        group.send(rank, number)
        assert group.exit_codes(but=rank) == [EXIT_LOST_PROCESS]
        event = f"has sent no heartbeat for {TIMEOUT:g} s" if number == signal.SIGSTOP else "was killed or has crashed"
        named = f"rank {rank} ({socket.gethostname()}, pid {group.processes[rank].pid})"
        line = f"{named} {event}; the same command resumes from the newest checkpoint (exit code 86)"
        assert [said for said in group.said().splitlines() if said.startswith("rank ")] == [line]
        assert "Traceback" not in group.said()
    with run_group(log, 2, finetune, config) as group:
        assert group.exit_codes() == [EXIT_DONE] * 2
        assert "resuming the interrupted run at step" in group.said()
    assert [path.name for path in config.output.parent.iterdir()] == ["finetuned"]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_run_killed_at_many_moments_ends_as_the_undisturbed_one(config, tmp_path, world_size):
    expected = undisturbed(config, tmp_path / "undisturbed", world_size)
    draw = random.Random(2026)
    renames = range(len(expected.renames))
    moments: list[Around | Later] = [Around(draw.choice(renames), draw.random() < 0.5) for _ in range(KILLS // 2)]
    moments += [
        Later(draw.uniform(0, expected.seconds), draw.randrange(world_size)) for _ in range(KILLS - len(moments))
    ]
    assert_killed_run_ends_as(expected, moments)
