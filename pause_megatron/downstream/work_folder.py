"""Work folder of a finetuning run: a hidden folder next to the output, removed when the output is complete.

It holds the settings, the metrics so far and the Trainer's last states, from which an interrupted run resumes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pause_megatron import log
from pause_megatron.atomic import sweep, write_json, write_text
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.config.task_definitions import find_definition
from pause_megatron.downstream.hub_models import find_model
from pause_megatron.downstream.processes import run_on_rank_0
from pause_megatron.downstream.trainer_states import SETTINGS, newest_intact_state, read_trainer_state, step_of
from pause_megatron.errors import UserError
from pause_megatron.locks import LOCK_FILE, sole_owner
from pause_megatron.log import JsonLines
from pause_megatron.parallel.slurm_step import describe_job
from pause_megatron.records.checksums import checksum_once
from pause_megatron.records.files import line_of, read_json, read_record_lines
from pause_megatron.records.finetuning import (
    FINETUNE_METRICS_KINDS,
    FinetuneRecord,
    FinetuneStepRecord,
    HeldOutLossRecord,
)
from pause_megatron.records.pretraining import METRICS_FILE


@dataclass(frozen=True)
class WorkFolder:
    """The hidden folder of one run."""

    path: Path
    writes: bool = True
    """Whether this process writes here; of several, only rank 0 does."""

    @contextmanager
    def owned(self, config: FinetuneConfig, arguments: TrainingArguments) -> Iterator[None]:
        """Open the folder and hold its lock in the block; all processes enter together, and rank 0 holds the lock.

        Raises :class:`UserError` on every process if another run holds it, or has completed the output meanwhile.
        """
        refusal = f"--output {config.output}: another run is writing it; wait until it ends, or give another folder"

        def lock() -> None:
            self.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(sole_owner(self.path, refusal=refusal, owner=describe_job(os.environ)))
            refuse_existing_output(config)
            self.open(config, arguments.world_size)

        with ExitStack() as stack:
            run_on_rank_0(arguments, lock)
            yield

    def open(self, config: FinetuneConfig, processes: int = 1) -> None:
        """Keep the folder of a run with the same settings, model, data and number of processes; otherwise empty it."""
        settings, file = to_flat(config), self.path / SETTINGS
        for name in ("device", "dead_rank_timeout", "push_to_hub"):  # a run may resume with others
            settings.pop(name)
        if processes > 1:
            settings["processes"] = processes
        settings["files"] = {str(path): checksum_once(path) for path in _inputs(config)}
        try:
            found = read_json(file)
        except UserError:
            found = None
        earlier = [path for path in self.path.iterdir() if path.name != LOCK_FILE]
        if earlier and found != settings:
            is_other = isinstance(found, dict)
            reason = "belongs to a run with other settings, model or data" if is_other else "has no readable settings"
            log.info(f"starting over: {self.path} {reason}")
            file.unlink(missing_ok=True)  # first, so that nobody takes what remains of the folder for a run's
            for path in earlier:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_json(file, settings)

    @property
    def metrics(self) -> Path:
        """The run's ``metrics.jsonl``."""
        return self.path / METRICS_FILE

    def resume(self) -> int:
        """Return the step of the newest intact state, 0 without one, and write the metrics up to it anew.

        The state has them too, so that damaged metrics do not matter.
        """
        state = newest_intact_state(self.path)
        logs = read_trainer_state(state).log_history if state else []
        records = [record for entry in logs for record in records_of(entry["step"], entry)]
        write_text(self.metrics, "".join(json.dumps(line_of(record)) + "\n" for record in records))
        if state:
            log.info(f"resuming the interrupted run at step {step_of(state)}")
        return step_of(state) if state else 0

    def final_loss(self) -> float:
        """Return the last training loss in the metrics."""
        records = read_record_lines(self.metrics, FINETUNE_METRICS_KINDS)
        return [record.loss for record in records if isinstance(record, FinetuneStepRecord)][-1]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def _inputs(config: FinetuneConfig) -> list[Path]:
    """Return the files that the weights depend on: those of the model, of a scoring model, and of a local task."""
    definition = find_definition(config.task, config.include_path)
    own = definition.files if definition.source in ("file", "include-path") else ()
    models = [config.model, *([config.pausing.scoring_model] if config.pausing.scoring_model else [])]
    suffixes = (".safetensors", ".json", ".model")
    found = [path for model in models for path in find_model(model).iterdir() if path.suffix in suffixes]
    return sorted([*found, *own, *(config.data.glob("*.jsonl") if config.data else ())])


def refuse_existing_output(config: FinetuneConfig) -> None:
    """Raise :class:`UserError` if the output exists; if it is a finished model, remove what its run left next to it."""
    if config.output.exists():
        if (config.output / FinetuneRecord.FILE).exists():
            shutil.rmtree(config.work_folder, ignore_errors=True)
            sweep(config.output.parent, config.output.name)
        raise UserError(f"--output {config.output}: exists already; choose another folder, or remove it")


def records_of(step: int, logs: dict[str, float]) -> Iterator[FinetuneStepRecord | HeldOutLossRecord]:
    """Yield the records of what the Trainer logs after ``step``; none for its final summary, which has no loss."""
    if "eval_loss" in logs:
        yield HeldOutLossRecord(step=step, loss=logs["eval_loss"])
    if "loss" in logs:
        rate, hint_loss = float(logs["learning_rate"]), logs.get("hint_loss")
        yield FinetuneStepRecord(step=step, loss=logs["loss"], hint_loss=hint_loss, learning_rate=rate)


class MetricsWriter(TrainerCallback):
    """Writes the Trainer's losses to ``metrics.jsonl``, including that of the last step.

    Every rank needs one, because a logged loss is a sum over all ranks; only rank 0 writes.
    """

    def __init__(self, work: WorkFolder) -> None:
        self._work = work
        self._lines = JsonLines(work.metrics) if work.writes else None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Log the last step even if it is not a multiple of the interval."""
        control.should_log |= state.global_step == state.max_steps
        return control

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Write the records. Raises :class:`UserError` for a loss that is not finite, and if it cannot write."""
        for record in records_of(state.global_step, logs):
            name = "held-out loss" if isinstance(record, HeldOutLossRecord) else "loss"
            losses = {name: record.loss}
            if isinstance(record, FinetuneStepRecord) and record.hint_loss is not None:
                losses["hint loss"] = record.hint_loss
            for name, loss in losses.items():
                if not math.isfinite(loss):
                    raise UserError(f"--learning-rate: the {name} is not finite at step {state.global_step}; lower it")
            if self._lines:
                try:
                    self._lines.write(line_of(record))
                except OSError as error:
                    remedy = "free disk space if the disk is full, and run the same command again to resume"
                    raise UserError(f"{self._work.metrics}: {error.strerror}; {remedy}") from error
            words = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            log.info(f"step {record.step}/{state.max_steps}: {words}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the file."""
        if self._lines:
            self._lines.close()
