"""Work folder of a finetuning run: a hidden folder next to the output, removed when the output is complete.

It holds the settings, the metrics so far and the Trainer's last checkpoint, from which an interrupted run resumes.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from pause_megatron import log
from pause_megatron.atomic import write_json, write_text
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.errors import UserError
from pause_megatron.log import JsonLines
from pause_megatron.records.files import line_of, read_record_lines
from pause_megatron.records.finetuning import FINETUNE_METRICS_KINDS, FinetuneStepRecord, HeldOutLossRecord
from pause_megatron.records.pretraining import METRICS_FILE

SETTINGS = "settings.json"
CHECKPOINT_MARKER = "trainer_state.json"  # the Trainer writes it last into a checkpoint


@dataclass(frozen=True)
class WorkFolder:
    """The hidden folder of one run."""

    path: Path
    writes: bool = True
    """Whether this process writes here; of several, only rank 0 does."""

    @staticmethod
    def of(config: FinetuneConfig, *, writes: bool = True) -> WorkFolder:
        """Return the folder of the run that ``config`` describes; it may not exist yet."""
        return WorkFolder(config.output.with_name(f".{config.output.name}.work"), writes)

    def open(self, config: FinetuneConfig, processes: int = 1) -> None:
        """Keep the folder of a run with the same settings and number of processes; otherwise start over."""
        if not self.writes:
            return
        settings, file = to_flat(config), self.path / SETTINGS
        settings.pop("device")  # a run may resume on another device
        if processes > 1:
            settings["processes"] = processes
        if self.path.exists() and not (file.is_file() and json.loads(file.read_bytes()) == settings):
            log.info(f"starting over: {self.path} belongs to a run with other settings")
            self.remove()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)

    @property
    def metrics(self) -> Path:
        """The run's ``metrics.jsonl``."""
        return self.path / METRICS_FILE

    def resume(self) -> Path | None:
        """Return the last complete checkpoint, if any, and drop the metrics of later steps, which will be repeated."""
        found = {
            int(path.parent.name.rpartition("-")[2]): path.parent for path in self.path.glob(f"*/{CHECKPOINT_MARKER}")
        }
        last_step = max(found, default=0)
        if self.writes:
            records = self._records() if self.metrics.exists() else []
            lines = [json.dumps(line_of(record)) + "\n" for record in records if record.step <= last_step]
            write_text(self.metrics, "".join(lines))
        if found:
            log.info(f"resuming the interrupted run at step {last_step}")
        return found.get(last_step)

    @staticmethod
    def is_finished(checkpoint: Path) -> bool:
        """Return whether training had ended at ``checkpoint``, by its number of steps or by early stopping."""
        state = TrainerState.load_from_json(str(checkpoint / CHECKPOINT_MARKER))
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        return bool(state.global_step >= state.max_steps or control.get("should_training_stop"))

    def final_loss(self) -> float:
        """Return the last training loss in the metrics."""
        return [record.loss for record in self._records() if isinstance(record, FinetuneStepRecord)][-1]

    def _records(self) -> list[FinetuneStepRecord | HeldOutLossRecord]:
        return read_record_lines(self.metrics, FINETUNE_METRICS_KINDS)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path)


class MetricsWriter(TrainerCallback):
    """Writes the Trainer's losses to ``metrics.jsonl``, including that of the last step.

    Every rank needs one, because a logged loss is a sum over all ranks; only rank 0 writes.
    """

    def __init__(self, work: WorkFolder) -> None:
        self._lines = JsonLines(work.metrics) if work.writes else None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Log the last step even if it is not a multiple of the interval."""
        control.should_log |= state.global_step == state.max_steps
        return control

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Write one record; the Trainer's final summary has no ``loss`` and is left out."""
        if "eval_loss" in logs:
            self._write(HeldOutLossRecord(step=state.global_step, loss=logs["eval_loss"]), state, "held-out loss")
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(f"--learning-rate: the loss is not finite at step {state.global_step}; lower it")
        record = FinetuneStepRecord(
            step=state.global_step, loss=logs["loss"], learning_rate=float(logs["learning_rate"])
        )
        self._write(record, state, "loss")

    def _write(self, record: FinetuneStepRecord | HeldOutLossRecord, state: TrainerState, name: str) -> None:
        if self._lines:
            self._lines.write(line_of(record))
        log.info(f"step {record.step}/{state.max_steps}: {name} {record.loss:.4f}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the file."""
        if self._lines:
            self._lines.close()
