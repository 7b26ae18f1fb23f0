"""What a run reports about itself: progress lines for a person and ``metrics.jsonl`` for programs."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from pause_megatron import log
from pause_megatron.training.loss import Losses
from pause_megatron.training.step import Update

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"
RUN_FORMAT = "pause_megatron/run/1"


class Metrics:
    """Logs training and validation of a run. Only rank 0 writes; the others keep count."""

    def __init__(self, run: Path, *, writes: bool, seq_length: int, train_iters: int) -> None:
        self.real_tokens = 0
        self.pause_tokens = 0
        self._lines = log.JsonLines(run / METRICS_FILE) if writes else None
        self._seq_length = seq_length
        self._train_iters = train_iters
        self._since = time.monotonic()
        self._tokens_since = 0

    def count(self, losses: Losses, batch_size: int) -> None:
        """Count the tokens of one step."""
        tokens = batch_size * self._seq_length
        self.real_tokens += tokens - losses.pauses
        self.pause_tokens += losses.pauses
        self._tokens_since += tokens

    def log_training(
        self, iteration: int, consumed_samples: int, losses: Losses, update: Update, learning_rate: float
    ) -> None:
        """Report the step ``iteration``; the rate is over the steps since the last report."""
        seconds = time.monotonic() - self._since
        tokens_per_second = self._tokens_since / seconds
        self._since, self._tokens_since = time.monotonic(), 0
        log.info(
            f"iteration {iteration:>6}/{self._train_iters}  loss {losses.mean:.4f}  grad norm {update.grad_norm:.3f}"
            f"  lr {learning_rate:.2e}  {tokens_per_second:,.0f} tokens/s"
        )
        self._write(
            kind="train",
            iteration=iteration,
            consumed_samples=consumed_samples,
            loss=losses.mean,
            grad_norm=update.grad_norm,
            learning_rate=learning_rate,
            tokens_per_second=tokens_per_second,
            real_tokens=self.real_tokens,
            pause_tokens=self.pause_tokens,
        )

    def log_validation(self, iteration: int, dataset: str, pauses: str, loss: float, real_tokens: int) -> None:
        """Report the mean loss over the real targets of one held-out dataset; the time it took is no training time."""
        perplexity = math.exp(loss)
        log.info(f"iteration {iteration:>6}  validation on {dataset}: loss {loss:.4f}  perplexity {perplexity:.2f}")
        self._write(
            kind="validation",
            iteration=iteration,
            dataset=dataset,
            pauses=pauses,
            loss=loss,
            perplexity=perplexity,
            real_tokens=real_tokens,
        )
        self._since = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self._lines:
            self._lines.close()

    def _write(self, **record: Any) -> None:
        if self._lines:
            self._lines.write(record)
