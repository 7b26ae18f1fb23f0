"""Grid files of the tests, and the jobs they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pause_megatron.config.experiments import GridConfig
from pause_megatron.experiments.grid_file import read_grid
from pause_megatron.experiments.grid_jobs import grid_jobs
from pause_megatron.experiments.job import Job


def write_grid(folder: Path, **keys: Any) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    return path


def jobs_of(config: GridConfig) -> list[Job]:
    return grid_jobs(read_grid(config), config.output.absolute(), f"--grid {config.grid}")


def names_of(jobs: list[Job]) -> list[str]:
    return [job.name for job in jobs]
