"""``pause-megatron grid``: models x tasks x pauses in finetuning x pauses at inference x seeds, from one file.

The grid becomes a list of ordinary commands. What is done is skipped, so the same command continues a grid that was
interrupted, and completes one whose file has grown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pause_megatron.atomic import write_json
from pause_megatron.config.experiments import GridConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_file import check_folders, read_grid
from pause_megatron.experiments.grid_jobs import Job, State, grid_jobs, job_states
from pause_megatron.experiments.grid_local import run_local, say, shown_command
from pause_megatron.experiments.grid_slurm import queue_slurm
from pause_megatron.locks import LOCK_FILE, sole_owner

SETTINGS_FILE = "grid.json"
_CONTENTS = {SETTINGS_FILE, LOCK_FILE, "finetune", "evaluate", "logs", "slurm"}
"""All that lies in a grid's folder; the commands of ``--list`` may have been run by hand before."""


def run_grid(config: GridConfig) -> None:
    """Run, continue or list the grid ``config`` names.

    Raises :class:`UserError` for a grid that cannot be, a folder that holds something else or results of other
    settings, and when a job failed.
    """
    grid = read_grid(config)
    output, source = config.output.absolute(), f"--grid {config.grid}"
    jobs = grid_jobs(grid, output, source)
    if config.list:
        list_jobs(jobs, job_states(jobs))
        return
    check_folders(grid, source)
    with owned_folder(output):
        states = job_states(jobs)
        write_json(output / SETTINGS_FILE, to_plain(grid))
        if config.executor == "slurm":
            queue_slurm(jobs, states, output, config.slurm)
        else:
            run_local(jobs, states, config.jobs, fork=config.fork)
    if config.executor == "local":
        say(f"\nresults: {config.output / 'evaluate'}/*/*.json, for 'pause-megatron report --evaluations'")


def list_jobs(jobs: Sequence[Job], states: Mapping[str, State]) -> None:
    """Print every job's state and command, and how many there are."""
    for job in jobs:
        print(f"{states[job.name]:<10}  {shown_command(job)}")
    counts = [f"{list(states.values()).count(state)} {state}" for state in ("done", "unfinished", "to do")]
    print(f"{len(jobs)} jobs: {', '.join(counts)}")


@contextmanager
def owned_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this grid alone; its forks hold it too, so that it is free only when all have ended.

    Raises :class:`UserError` when another grid works there, or the folder holds something else than a grid.
    """
    if folder.exists() and {entry.name for entry in folder.iterdir()} - _CONTENTS:
        raise UserError(f"--output {folder} holds something else than a grid; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"--output {folder}: another grid is at work there; wait for its end"
    with sole_owner(folder, refusal=refusal) as is_locked:
        if not is_locked:
            say(f"warning: {folder} cannot be locked; start no second grid there")
        yield
