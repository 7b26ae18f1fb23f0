"""Validation: losses over the real targets of held-out datasets, in the order of the dataset."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from pause_megatron.config.parallel import Layout
from pause_megatron.config.training import TrainingConfig
from pause_megatron.data.sample_order import ValidationData
from pause_megatron.data.training_sample import SampleDataset
from pause_megatron.records.pretraining import perplexity
from pause_megatron.training.loss import Losses
from pause_megatron.training.metrics.run_metrics import Metrics, loss_fields
from pause_megatron.training.state import blend_strategy

MOST_BLOCKS = 64
"""Blocks of a dataset that a validation records the losses of; more batches are joined to as many blocks."""


class Validation:
    """The held-out datasets of a run."""

    def __init__(self, datasets: Sequence[SampleDataset], *, sequences: int, batch_size: int) -> None:
        """Use the first ``sequences`` of each dataset, in batches of ``batch_size``."""
        self._datasets = [ValidationData(dataset, sequences) for dataset in datasets]
        self._batch_size = batch_size

    def measure(self, validate: Callable[[ValidationData, int, int], Losses]) -> list[list[Losses]]:
        """Measure the losses of each batch of each dataset.

        ``validate`` returns the losses of one batch of a dataset, from a position and a size; it may raise to end the
        validation.
        """
        found = []
        for dataset in self._datasets:
            starts = range(0, len(dataset), self._batch_size)
            found.append([validate(dataset, start, self._batch_size) for start in starts])
        return found

    def report(self, found: Sequence[Sequence[Losses]], metrics: Metrics, iteration: int) -> None:
        """Record the losses of :meth:`measure` for each dataset, and the mean by the datasets' weights, if any."""
        sources = [dataset.source for dataset in self._datasets]
        totals = [sum(batches, start=Losses()) for batches in found]
        for source, batches, losses in zip(sources, found, totals, strict=True):
            fields = {**loss_fields(losses), **block_fields(batches)}
            metrics.log_validation(iteration, source.name, source.manifest.strategy, losses.targets, **fields)
        if weights := [source.weight for source in sources if source.weight is not None]:
            mean = statistics.fmean((losses.mean for losses in totals), weights=weights)
            targets = sum(losses.targets for losses in totals)
            means = {"loss": mean, "perplexity": perplexity(mean)}
            metrics.log_validation(iteration, "weighted mean", blend_strategy(sources), targets, **means)


def validation_batch_size(training: TrainingConfig, layout: Layout) -> int:
    """Return the sequences of a validation's batches: few, so that many blocks of the data have a loss of their own.

    Each pipeline stage has as many microbatches as there are stages, if training has. Never above the batch size of
    training, which is known to fit.
    """
    unit = training.micro_batch_size * layout.dp * layout.pp
    if training.global_batch_size % unit:
        unit = training.micro_batch_size * layout.dp
    return min(training.global_batch_size, unit * -(-training.validation_sequences // (MOST_BLOCKS * unit)))


def block_fields(batches: Sequence[Losses]) -> dict[str, Any]:
    """Return the fields of a record that hold the losses of at most :data:`MOST_BLOCKS` blocks of batches."""
    stretch = -(-len(batches) // MOST_BLOCKS)
    blocks = [sum(batches[start : start + stretch], start=Losses()) for start in range(0, len(batches), stretch)]
    return {
        "block_losses": tuple(block.mean for block in blocks),
        "block_targets": tuple(block.targets for block in blocks),
    }
