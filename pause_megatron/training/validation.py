"""Validation: losses over the real targets of held-out datasets, in the order of the dataset."""

import statistics
from collections.abc import Callable, Sequence

from pause_megatron.data.sample_order import ValidationData
from pause_megatron.data.training_sample import SampleDataset
from pause_megatron.training.loss import Losses
from pause_megatron.training.metrics.run_metrics import Metrics, loss_fields, perplexity
from pause_megatron.training.state import blend_strategy


class Validation:
    """The held-out datasets of a run."""

    def __init__(self, datasets: Sequence[SampleDataset], *, sequences: int, batch_size: int) -> None:
        """Use the first ``sequences`` of each dataset, in batches of ``batch_size``."""
        self._datasets = [ValidationData(dataset, sequences) for dataset in datasets]
        self._batch_size = batch_size

    def measure(self, validate: Callable[[ValidationData, int, int], Losses]) -> list[Losses]:
        """Measure the losses on each dataset.

        ``validate`` returns the losses of one batch of a dataset, from a position and a size; it may raise to end the
        validation.
        """
        found = []
        for dataset in self._datasets:
            losses = Losses()
            for start in range(0, len(dataset), self._batch_size):
                losses += validate(dataset, start, self._batch_size)
            found.append(losses)
        return found

    def report(self, found: Sequence[Losses], metrics: Metrics, iteration: int) -> None:
        """Record the losses of :meth:`measure` for each dataset, and the mean by the datasets' weights, if any."""
        sources = [dataset.source for dataset in self._datasets]
        for source, losses in zip(sources, found, strict=True):
            pauses = source.manifest.strategy
            metrics.log_validation(iteration, source.name, pauses, losses.targets, **loss_fields(losses))
        if weights := [source.weight for source in sources if source.weight is not None]:
            mean = statistics.fmean((losses.mean for losses in found), weights=weights)
            targets = sum(losses.targets for losses in found)
            means = {"loss": mean, "perplexity": perplexity(mean)}
            metrics.log_validation(iteration, "weighted mean", blend_strategy(sources), targets, **means)
