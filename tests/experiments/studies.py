"""A small study, and its jobs by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pause_megatron.cli.commands import COMMANDS
from pause_megatron.cli.flags import parse
from pause_megatron.config.experiments import GridConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.experiments.job import Job

from .grids import write_grid

TRAIN = {"deepspeed": "ds_configs/zero1_fp32.json", "train_iters": 100, "global_batch_size": 8}
STUDY: dict[str, Any] = {
    "pretrain": {
        "text": "corpus/*train*",
        "models": {"stdpt": {"pauses": "none"}, "tenth": {"pauses": "sequence", "pause_rate": 0.1}},
        "preprocess": {"seq_length": 64},
        "sizes": ["tiny"],
        "seeds": [3, 4],
        "train": TRAIN,
    },
    "tasks": {"parity": "tasks/parity"},
    "num_pauses_ft": [0],
}


def study(folder: Path, *, grid: dict[str, Any] | None = None, **changes: Any) -> GridConfig:
    """Write :data:`STUDY` with other keys of ``pretrain`` and of the file."""
    keys = {**STUDY, "pretrain": {**STUDY["pretrain"], **changes}, **(grid or {})}
    return GridConfig(grid=str(write_grid(folder, **keys)), output=folder / "out")


def by_name(jobs: list[Job]) -> dict[str, Job]:
    return {job.name: job for job in jobs}


def parsed(job: Job) -> Any:
    """Parse the job's command line, as its process does."""
    command, *flags = job.arguments()
    return parse(COMMANDS[command].config_class(), command, flags)


def run_of(job: Job) -> PretrainConfig:
    [config] = job.outputs
    assert isinstance(config, PretrainConfig)
    return config
