"""Weights & Biases: every number of every record as a chart, in one W&B run however often the training is restarted."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import wandb

from pause_megatron.atomic import write_text
from pause_megatron.errors import UserError
from pause_megatron.training.watching.records import Record, scalars

RUN_ID_FILE = "wandb-run-id"
"""Holds the id of the W&B run in the run folder, so that a restart goes on in it."""


class WeightsAndBiases:
    """Reports to a W&B run named like the run folder. W&B keeps its own files in ``FOLDER/wandb``."""

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        """Start or go on with the run of ``folder`` in ``project``; ``config`` is shown beside its charts.

        Raises :class:`UserError` when W&B refuses, for want of a login or of a network.
        """
        try:
            self._run = wandb.init(
                project=project, id=_run_id(folder), name=folder.name, dir=str(folder), config=config, resume="allow"
            )
        except wandb.Error as error:
            raise UserError(
                f"--wandb-project {project}: {' '.join(str(error).split()).rstrip('.')}; run 'wandb login', or set"
                " WANDB_MODE=offline to keep the reports in the run folder"
            ) from error
        # W&B's own count of steps cannot go back, as a run does that continues from an older checkpoint.
        self._run.define_metric("*", step_metric="iteration")

    def write(self, record: Record) -> None:
        """Hand the record's numbers to W&B's own process, which sends them."""
        self._run.log({"iteration": record["iteration"], **scalars(record)})

    def close(self) -> None:
        """Wait until everything is sent, and mark the run as finished."""
        self._run.finish()


def _run_id(folder: Path) -> str:
    file = folder / RUN_ID_FILE
    if not file.exists():
        write_text(file, uuid.uuid4().hex[:8])
    return file.read_text(encoding="utf-8").strip()
