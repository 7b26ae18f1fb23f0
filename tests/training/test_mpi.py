"""A run under ``mpirun`` is the run of ``--processes``, with PyPI's Open MPI and Debian's; a rank that dies ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping, to_plain
from pause_megatron.config.training import LoggingConfig, OptimizerConfig, TrainingConfig
from pause_megatron.log import read_json_lines
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer
from tests.mpirun import ORIGINS, mpi_environment, mpirun_command

DEEPSPEED = Path(__file__).parents[2] / "ds_configs" / "zero1_fp32.json"
STEPS = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A small run on two tensor-parallel processes."""
    folder = tmp_path_factory.mktemp("mpi")
    write_text_and_tokenizer(folder)
    return PretrainConfig(
        data=(str(write_dataset(folder, "pause")),),
        tokenizer=folder / "tokenizer",
        deepspeed=DEEPSPEED,
        output=folder / "local",
        model=ModelConfig(num_layers=2, hidden_size=64, num_attention_heads=4, max_position_embeddings=SEQ_LENGTH),
        parallel=ParallelConfig(tensor_model_parallel_size=2),
        optimizer=OptimizerConfig(schedule="constant", warmup_fraction=0),
        training=TrainingConfig(train_iters=STEPS, global_batch_size=4),
        logging=LoggingConfig(log_interval=1),
    )


@pytest.fixture(scope="module")
def local_losses(config: PretrainConfig) -> list[float]:
    """The losses of the run whose processes start each other."""
    subprocess.run(pretrain_command(replace(config, processes=2)), check=True, capture_output=True)
    return losses(config)


def pretrain_command(config: PretrainConfig) -> list[str]:
    flags = flags_of_mapping(to_plain(config), PretrainConfig, "test")
    return [sys.executable, "-m", "pause_megatron", "pretrain", *flags]


def losses(config: PretrainConfig) -> list[float]:
    path = config.output / "metrics.jsonl"
    records = read_json_lines(path) if path.exists() else []
    return [record["loss"] for record in records if record["kind"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("origin", ORIGINS)
def test_run_under_mpirun_is_the_run_of_local_processes_until_a_rank_dies(
    config: PretrainConfig, local_losses: list[float], origin: str
) -> None:
    endless = replace(config.training, train_iters=100_000)
    config = replace(config, output=config.output.with_name(origin), training=endless)
    command = mpirun_command(origin, *pretrain_command(config))
    job = subprocess.Popen(command, env=mpi_environment(origin), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while len(losses(config)) < STEPS:
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert losses(config)[:STEPS] == local_losses
        assert len(ranks_of(config)) == 2
        os.kill(max(ranks_of(config)), signal.SIGKILL)
        _, said = job.communicate(timeout=30)
        assert job.returncode != 0
        assert not ranks_of(config)
        assert "2 processes on one machine, launched by openmpi" in said
    finally:
        job.kill()
        job.wait()


def ranks_of(config: PretrainConfig) -> list[int]:
    """Process ids of the run's Python processes."""
    start = [sys.executable, "-m", "pause_megatron", "pretrain"]
    commands = {each.pid: each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])}
    return [pid for pid, command in commands.items() if command[:4] == start and str(config.output) in command]
