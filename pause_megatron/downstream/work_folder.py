"""Where a finetuning run keeps what is not finished: a hidden folder beside the output, gone when the output is there.

It holds the settings, the metrics so far and the Trainer's last state, from which an interrupted run continues.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pause_megatron import log
from pause_megatron.atomic import write_json, write_text
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.serialize import to_flat
from pause_megatron.errors import UserError
from pause_megatron.log import JsonLines, read_json_lines

METRICS = "metrics.jsonl"
SETTINGS = "settings.json"
STATE_MARKER = "trainer_state.json"
"""The file the Trainer writes last into a state; without it a state is cut short."""


@dataclass(frozen=True)
class WorkFolder:
    """The hidden folder of one run."""

    path: Path
    leads: bool = True
    """Whether this process writes here: of several, rank 0 does."""

    @staticmethod
    def of(config: FinetuneConfig, *, leads: bool = True) -> WorkFolder:
        """The folder of the run that ``config`` asks for, which need not be there yet."""
        return WorkFolder(config.output.with_name(f".{config.output.name}.work"), leads)

    def open(self, config: FinetuneConfig, processes: int = 1) -> None:
        """Keep what an interrupted run with the very same settings, on as many processes, left; or begin anew."""
        if not self.leads:
            return
        settings = to_flat(config)
        if processes > 1:
            settings["processes"] = processes
        if self.path.exists() and self._settings() != settings:
            log.info(f"starting anew: {self.path} belongs to a run with other settings")
            self.remove()
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / SETTINGS, settings)

    @property
    def metrics(self) -> Path:
        """The run's metrics.jsonl."""
        return self.path / METRICS

    def resume(self) -> Path | None:
        """The last complete state, if any; metrics from after it are dropped, for those steps will be run again."""
        states = {int(path.parent.name.rpartition("-")[2]): path.parent for path in self.path.glob(f"*/{STATE_MARKER}")}
        last_step = max(states, default=0)
        if self.leads:
            records = read_json_lines(self.metrics) if self.metrics.exists() else []
            write_text(self.metrics, "".join(json.dumps(r) + "\n" for r in records if r["step"] <= last_step))
        if states:
            log.info(f"continuing the interrupted run at step {last_step}")
        return states.get(last_step)

    def final_loss(self) -> float:
        """The training loss of the last metrics record that has one."""
        return float([record["loss"] for record in read_json_lines(self.metrics) if record["kind"] == "train"][-1])

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path)

    def _settings(self) -> Any:
        path = self.path / SETTINGS
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class MetricsWriter(TrainerCallback):
    """Writes the Trainer's training records as lines of metrics.jsonl, the last step's always among them.

    Every process has one, since all of them take part in adding up a loss; only the one that leads writes.
    """

    def __init__(self, work: WorkFolder) -> None:
        self._lines = JsonLines(work.metrics) if work.leads else None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Have the last step logged even where it is no multiple of the interval."""
        control.should_log |= state.global_step == state.max_steps
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Write one record; the Trainer's closing summary carries no ``loss`` and is left out."""
        if "eval_loss" in logs:
            if self._lines:
                self._lines.write({"kind": "validation", "step": state.global_step, "loss": logs["eval_loss"]})
            log.info(f"step {state.global_step}/{state.max_steps}: held-out loss {logs['eval_loss']:.4f}")
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(f"the loss is not finite at step {state.global_step}; lower --learning-rate")
        record = {"step": state.global_step, "loss": logs["loss"], "learning_rate": logs["learning_rate"]}
        if self._lines:
            self._lines.write({"kind": "train", **record})
        log.info(f"step {state.global_step}/{state.max_steps}: loss {logs['loss']:.4f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the file."""
        if self._lines:
            self._lines.close()
