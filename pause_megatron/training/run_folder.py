"""A run folder has one run at a time: two would write each other's checkpoints and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pause_megatron import log
from pause_megatron.errors import UserError
from pause_megatron.locks import PATIENCE_SECONDS, sole_owner
from pause_megatron.parallel.collectives import raise_on_all_ranks
from pause_megatron.parallel.launcher import Launch
from pause_megatron.parallel.slurm_step import describe_job

_PATIENCE_WITH_ITSELF_SECONDS = 180.0
"""For the lock of an earlier start of the same Slurm job, whose machine was lost: servers give them up late."""


@contextmanager
def owned_run_folder(folder: Path, launch: Launch) -> Iterator[None]:
    """Hold ``folder`` for this run; all processes enter together, and rank 0 holds the lock until it ends.

    Raises :class:`UserError` in all of them when another run is at work there, naming its machine, process and job.
    """
    failure = None
    with ExitStack() as stack:
        if launch.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            refusal = f"--output {folder}: another run is at work there; wait for its end, or name another folder"
            owner = describe_job(os.environ)
            try:
                if not stack.enter_context(sole_owner(folder, refusal=refusal, owner=owner, patience=_patience)):
                    log.warn(f"{folder} cannot be locked; start no second run there")
            except UserError as error:
                failure = str(error)
        raise_on_all_ranks(failure)
        yield


def _patience(other: str) -> float:
    """Seconds to wait for the end of who says ``other`` of itself."""
    own_job = f"Slurm job {os.environ.get('SLURM_JOB_ID')}"
    return _PATIENCE_WITH_ITSELF_SECONDS if own_job in other.split(", ") else PATIENCE_SECONDS
