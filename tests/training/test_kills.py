"""Ranks of a real run are killed, hung and asked to stop at random moments; the rerun continues bit for bit.

Each run meets one fault after the other and is restarted after each. All the losses that it logs must equal those of an
uninterrupted run.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping, to_plain
from pause_megatron.config.training import (
    CheckpointConfig,
    FaultsConfig,
    LoggingConfig,
    OptimizerConfig,
    TrainingConfig,
)
from pause_megatron.errors import EXIT_DONE, EXIT_LOST_PROCESS, EXIT_REQUEUE, EXIT_USER
from pause_megatron.log import read_json_lines
from pause_megatron.training.pretrain import pretrain
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer
from tests.disk import small_disk
from tests.parallel.dying import Group, run_group

PROCESSES = 2
STEPS = 60
DEEPSPEED = Path(__file__).parents[2] / "ds_configs" / "zero1_fp32.json"

Losses = dict[tuple[str, int], float]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A small run on two pipeline stages."""
    folder = tmp_path_factory.mktemp("kills")
    write_text_and_tokenizer(folder)
    return PretrainConfig(
        data=(str(write_dataset(folder, "pause")),),
        validation_data=(str(write_dataset(folder, "held-out", "validation")),),
        tokenizer=folder / "tokenizer",
        deepspeed=DEEPSPEED,
        output=folder / "undisturbed",
        model=ModelConfig(num_layers=2, hidden_size=64, num_attention_heads=4, max_position_embeddings=SEQ_LENGTH),
        parallel=ParallelConfig(pipeline_model_parallel_size=PROCESSES),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(
            train_iters=STEPS, global_batch_size=8, micro_batch_size=2, validation_interval=7, validation_sequences=32
        ),
        checkpoint=CheckpointConfig(save_interval=3),
        logging=LoggingConfig(log_interval=1),
    )


@pytest.fixture(scope="module")
def undisturbed(config: PretrainConfig) -> Losses:
    """The losses of the run to which nothing happened."""
    with started(config) as group:
        assert group.exit_codes() == [EXIT_DONE] * PROCESSES, group.said()
    found = losses(config)
    assert len(found) == STEPS + STEPS // 7 + 1
    return found


@contextmanager
def started(config: PretrainConfig) -> Iterator[Group]:
    said = Path(tempfile.mkdtemp(dir=Path(config.data[0]).parent))
    with run_group(said, PROCESSES, pretrain, config) as group:
        yield group


def losses(config: PretrainConfig) -> Losses:
    """Kind and iteration to loss, as logged last."""
    return {(record["kind"], record["iteration"]): record["loss"] for record in records(config) if "loss" in record}


def records(config: PretrainConfig) -> list[dict[str, object]]:
    path = config.output / "metrics.jsonl"
    return read_json_lines(path) if path.exists() else []


def steps(config: PretrainConfig) -> list[int]:
    """The iterations trained, in the order they were."""
    return [record["iteration"] for record in records(config) if record["kind"] == "train"]


def wait_until(condition: Callable[[], bool], *processes: Group | subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        for running in processes:
            ended = running.poll() is not None if isinstance(running, subprocess.Popen) else running.has_ended()
            assert not ended
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_step(group: Group, config: PretrainConfig, iteration: int) -> None:
    wait_until(lambda: max(steps(config), default=0) >= iteration, group)


def assert_continues_as(undisturbed: Losses, config: PretrainConfig) -> None:
    with started(config) as group:
        assert group.exit_codes() == [EXIT_DONE] * PROCESSES, group.said()
    assert losses(config) == undisturbed


def test_killed_run_ends_with_the_losses_of_the_undisturbed_one(config: PretrainConfig, undisturbed: Losses) -> None:
    config = replace(config, output=config.output.with_name("killed"))
    chance = random.Random(2310)
    for iteration in sorted(chance.sample(range(1, STEPS - 10), 4)):
        with started(config) as group:
            wait_for_step(group, config, iteration)
            time.sleep(chance.uniform(0, 0.1))
            kill(group, chance.randrange(PROCESSES))
    for rank in range(PROCESSES):  # while a checkpoint is written
        before = unfinished_checkpoints(config)
        with started(config) as group:
            wait_until(lambda before=before: bool(unfinished_checkpoints(config) - before), group)
            kill(group, rank)
            assert unfinished_checkpoints(config) - before
    assert_continues_as(undisturbed, config)
    assert not unfinished_checkpoints(config)


def unfinished_checkpoints(config: PretrainConfig) -> set[str]:
    return {path.name for path in (config.output / "checkpoints").glob(".*.tmp")}


def kill(group: Group, rank: int) -> None:
    """Kill a process, and see that the others end and name it."""
    group.send(rank, signal.SIGKILL)
    assert group.exit_codes(but=rank) == [EXIT_LOST_PROCESS] * (PROCESSES - 1), group.said()
    assert f"rank {rank} (" in group.said()
    assert ") was killed or has crashed; the same command resumes" in group.said()
    assert "Traceback" not in group.said()


def test_frozen_process_is_named_and_the_rerun_ends_as_the_undisturbed_one(
    config: PretrainConfig, undisturbed: Losses
) -> None:
    config = replace(config, output=config.output.with_name("frozen"), faults=FaultsConfig(dead_rank_timeout=3))
    with started(config) as group:
        wait_for_step(group, config, 10)
        group.send(1, signal.SIGSTOP)
        assert group.exit_codes(but=1) == [EXIT_LOST_PROCESS]
        assert f", pid {group.processes[1].pid}) has sent no heartbeat for 3 s" in group.said()
        assert "Traceback" not in group.said()
    assert_continues_as(undisturbed, config)


def test_second_run_in_a_folder_is_refused_and_the_first_goes_on(config: PretrainConfig, undisturbed: Losses) -> None:
    config = replace(config, output=config.output.with_name("shared"))
    with started(config) as first:
        wait_for_step(first, config, 1)
        first.send(0, signal.SIGSTOP)
        with started(config) as second:
            assert second.exit_codes() == [EXIT_USER] * PROCESSES, second.said()
        pid = first.processes[0].pid
        assert "shared: another run is using it; wait until it ends, or give another folder (" in second.said()
        assert f", pid {pid})" in second.said()
        first.send(0, signal.SIGCONT)
        assert first.exit_codes() == [EXIT_DONE] * PROCESSES, first.said()
    assert losses(config) == undisturbed


def test_run_asked_to_stop_saves_and_loses_no_step(config: PretrainConfig, undisturbed: Losses) -> None:
    """By a signal to one process, or because the time is up; nothing is saved but on request."""
    config = replace(config, output=config.output.with_name("stopped"), checkpoint=CheckpointConfig(save_interval=1000))
    chance = random.Random(2226)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        with started(config) as group:
            wait_for_step(group, config, max(steps(config), default=0) + chance.randint(1, 10))
            time.sleep(chance.uniform(0, 0.1))
            group.send(chance.randrange(PROCESSES), number)
            said = said_on_stopping(group)
        done = steps(config)
        assert done == list(range(1, len(done) + 1))  # none was lost, none taken twice
        assert f"stopped by {number.name} after iteration {len(done)}; the same command resumes from" in said
    with started(replace(config, faults=FaultsConfig(exit_duration=1e-6))) as group:
        assert "--exit-duration reached during startup" in said_on_stopping(group)
    assert_continues_as(undisturbed, config)


def said_on_stopping(group: Group) -> str:
    assert group.exit_codes() == [EXIT_REQUEUE] * PROCESSES, group.said()
    return group.said()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_launcher_asked_to_stop_leaves_with_the_exit_code_for_requeueing(
    config: PretrainConfig, undisturbed: Losses, number: signal.Signals
) -> None:
    config = replace(config, output=config.output.with_name(f"launched-{number.name}"), processes=PROCESSES)
    flags = flags_of_mapping(to_plain(config), PretrainConfig, "test")
    command = [sys.executable, "-m", "pause_megatron", "pretrain", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as launcher:
        wait_until(lambda: len(steps(config)) >= 5, launcher)
        launcher.send_signal(number)
        _, said = launcher.communicate()
    assert launcher.returncode == EXIT_REQUEUE, said
    *_, last = said.splitlines()
    assert last.startswith(f"stopped by {number.name} after iteration {len(steps(config))}; the same command resumes")
    assert "Traceback" not in said
    assert_continues_as(undisturbed, replace(config, processes=1))


def test_damaged_checkpoints_are_passed_over_and_the_rerun_ends_as_the_undisturbed_one(
    config: PretrainConfig, undisturbed: Losses
) -> None:
    """The newest has a flipped byte, the one before lacks a shard, and the one before that is complete."""
    checkpoint = CheckpointConfig(save_interval=5, keep_checkpoints=3)
    config = replace(config, output=config.output.with_name("damaged"), checkpoint=checkpoint)
    with started(config) as group:
        wait_for_step(group, config, 21)
        group.send(0, signal.SIGTERM)
        said_on_stopping(group)
    newest, before, *_ = sorted((config.output / "checkpoints").glob("iter_*"), reverse=True)
    shard = newest / "rank00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (before / "rank00000.safetensors").unlink()
    with started(config) as group:
        assert group.exit_codes() == [EXIT_DONE] * PROCESSES, group.said()
        for folder, fault in ((newest, "rank00001.safetensors: damaged"), (before, "rank00000.safetensors: missing")):
            assert f"{folder}/{fault}" in group.said()
            assert f"renamed the folder to {folder.name}.damaged" in group.said()
    assert losses(config) == undisturbed


def test_full_disk_keeps_what_was_saved_and_the_rerun_ends_as_the_undisturbed_one(
    config: PretrainConfig, undisturbed: Losses, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    config = replace(config, output=disk / "run")
    with small_disk(disk, "16m") as resize:
        with started(config) as group:
            wait_for_step(group, config, 4)
            with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
            assert group.exit_codes() == [EXIT_USER] * PROCESSES, group.said()
            assert "could not be written" in group.said()
            assert "resume from the previous checkpoint" in group.said()
        resize("64m")
        assert_continues_as(undisturbed, config)
