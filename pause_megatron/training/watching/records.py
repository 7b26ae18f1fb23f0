"""What is said of losses, and how the numbers of a record are called in charts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pause_megatron.training.loss import LONGEST_RUN, Losses

Record = dict[str, Any]
"""``kind`` (train, validation, resumed or bad_batch), ``iteration``, and figures; a group of figures is a mapping of
its own. What does not exist in a run, such as a loss after pauses where there are none, is left out."""

RUN_NAMES = (*(str(length) for length in range(LONGEST_RUN)), f"{LONGEST_RUN}+")
"""What runs of pauses are called, by length."""


def loss_figures(losses: Losses) -> Record:
    """The mean over all of ``losses`` (nats), and by the pauses before the targets, with the numbers of targets."""
    figures = mean_figures(losses.mean)
    if losses.after_real is not None:
        figures["loss_after_real"] = losses.after_real
    if losses.after_pause is not None:
        figures["loss_after_pause"] = losses.after_pause
        lengths = [length for length, count in enumerate(losses.counts) if count]
        figures["loss_by_pause_run"] = {RUN_NAMES[length]: losses.after_run(length) for length in lengths}
        figures["targets_by_pause_run"] = {RUN_NAMES[length]: losses.counts[length] for length in lengths}
    return figures


def mean_figures(loss: float) -> Record:
    """A mean loss (nats) and its perplexity, which is infinite where the loss has left all bounds."""
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = math.inf
    return {"loss": loss, "perplexity": perplexity}


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under the names that charts get.

    ``train/loss``, ``train/loss_by_pause_run/2``; for a validation ``validation/DATASET/loss``.
    """
    place = "/".join([record["kind"], *([record["dataset"]] if "dataset" in record else [])])
    figures = {name: value for name, value in record.items() if name != "iteration"}
    return dict(_numbers(place, figures))


def _numbers(place: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{place}/{name}", value)
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{place}/{name}", value
