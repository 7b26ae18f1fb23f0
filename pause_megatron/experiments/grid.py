"""``pause-megatron grid``: models x tasks x pauses in finetuning x pauses at inference x seeds, from one file.

A study is a grid that also pretrains its models, by pause strategy and rate, size and seed.

A grid becomes a list of ordinary commands. Outputs that exist are skipped, so the same command resumes an interrupted
grid, and adds to a grid the outputs that are new in its file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pause_megatron import log
from pause_megatron.atomic import final_name, sweep, write_json
from pause_megatron.config.experiments import GridConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_file import check_folders, read_grid
from pause_megatron.experiments.grid_jobs import grid_jobs
from pause_megatron.experiments.grid_local import run_local, sweep_leftovers
from pause_megatron.experiments.grid_plan import print_grid_plan
from pause_megatron.experiments.grid_slurm import queue_slurm
from pause_megatron.experiments.job import Job, State, job_states, shorten
from pause_megatron.experiments.job_outputs import path_of
from pause_megatron.experiments.study_checks import check_models
from pause_megatron.locks import LOCK_FILE, sole_owner

SETTINGS_FILE = "grid.json"
_CONTENTS = {
    *(SETTINGS_FILE, LOCK_FILE, "logs", "slurm"),
    *("tokenizer", "data", "runs", "hf", "finetune", "evaluate", "report"),
}
"""Names in a grid's folder, also after you ran commands of ``--list`` by hand."""


def run_grid(config: GridConfig) -> None:
    """Run, resume, list or plan the grid that ``config`` names.

    Raises :class:`UserError` for an invalid grid, for an output folder with other contents or with results of other
    settings, and if a job failed.
    """
    grid = read_grid(config)
    output, source = config.output.absolute(), f"--grid {config.grid}"
    jobs = grid_jobs(grid, output, source)
    if config.list:
        _list(jobs, job_states(jobs), as_json=config.json)
    if config.dry_run:
        print_grid_plan(grid, jobs, job_states(jobs), config.output, source)
    if config.list or config.dry_run:
        return
    check_folders(grid, source)
    check_models(grid, output, source)
    with owned_folder(output) as lock:
        states = job_states(jobs)
        write_json(output / SETTINGS_FILE, to_plain(grid))
        sweep_leftovers(jobs)
        if config.executor == "slurm":
            queue_slurm(jobs, states, output, config.slurm)
        else:
            run_local(jobs, states, config.jobs, lock)
    if config.executor == "local":
        page = ", ".join(shorten(str(path_of(job.outputs[0]))) for job in jobs if job.stage == "report")
        results = f"results: {config.output / 'evaluate'}/*/*.json, for 'pause-megatron report --evaluations'"
        log.progress(f"\nreport: {page}" if jobs[-1].stage == "report" else f"\n{results}")


def _list(jobs: Sequence[Job], states: Mapping[str, State], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_as_mapping(job, states[job.name]) for job in jobs], indent=2, ensure_ascii=False))
        return
    for job in jobs:
        print(f"{states[job.name]:<10}  {job.command_line()}")
    counts = [f"{list(states.values()).count(state)} {state}" for state in ("done", "unfinished", "to do")]
    print(f"{len(jobs)} jobs: {', '.join(counts)}")


def _as_mapping(job: Job, state: State) -> dict[str, Any]:
    return {
        "name": job.name,
        "stage": job.stage,
        "state": state,
        "command": ["pause-megatron", *job.words()[2:]],
        "needs": list(job.needs),
        "outputs": [str(path_of(output)) for output in job.outputs],
        "log": str(job.log),
    }


@contextmanager
def owned_folder(folder: Path) -> Iterator[int | None]:
    """Lock ``folder``, so that no other grid writes there; yields the lock's file descriptor, if there is a lock.

    Raises :class:`UserError` if another grid runs there, or if the folder is not empty and is not a grid folder.
    """
    if folder.exists() and not all(final_name(entry.name) in _CONTENTS for entry in folder.iterdir()):
        raise UserError(f"--output {folder}: is not empty and is not a grid folder; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"--output {folder}: another grid runs there; wait for its end"
    with sole_owner(folder, refusal=refusal) as lock:
        sweep(folder, SETTINGS_FILE)
        yield lock
