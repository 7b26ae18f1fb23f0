"""The order of samples: which sample stands at a position of the endless walk that training is, or of a validation.

It depends on the seed and the position alone, so a run continues with the same data after a restart, also under another
layout or with more iterations, as long as the global batch size stays. Megatron-core's ``BlendedDataset`` cannot give
that: its table is as long as the run, and it blends datasets of one kind only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

import numpy as np
from megatron.core.datasets import helpers

from pause_megatron.data.training_sample import Sample, SampleDataset, blank_sample

LONGEST_PERIOD = 1_000_000
"""Samples after which a blend by weights repeats its turns, at most."""


class SampleOrder:
    """A shuffled, endless walk over ``num_samples`` samples: a new permutation each epoch."""

    def __init__(self, num_samples: int, *seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self._epoch = -1
        self._permutation = np.arange(0)

    def __call__(self, position: int) -> int:
        """The sample at ``position`` of the walk."""
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            # Every process holds it, so it is as narrow as can be: 4 bytes a sample.
            self._permutation = np.arange(self.num_samples, dtype=np.min_scalar_type(self.num_samples))
            np.random.default_rng([*self.seed, epoch]).shuffle(self._permutation)
            self._epoch = epoch
        return int(self._permutation[offset])


class BlendOrder:
    """An endless walk over several datasets: how many samples each has seen follows its weight at every position.

    Each dataset is walked over in an order of its own, and begun anew when it ends.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.orders = [SampleOrder(size, seed, dataset) for dataset, size in enumerate(sizes)]
        self.turns = whole_turns(weights)
        period = sum(self.turns)
        # One period of Megatron-core's blending; it repeats itself.
        self._datasets, self._earlier = np.zeros(period, np.int16), np.zeros(period, np.int64)
        helpers.build_exhaustive_blending_indices(self._datasets, self._earlier, self.turns, len(self.turns))

    def __call__(self, position: int) -> tuple[int, int]:
        """The dataset at ``position`` of the walk, and its sample."""
        periods, offset = divmod(position, len(self._datasets))
        dataset = int(self._datasets[offset])
        return dataset, self.orders[dataset](periods * self.turns[dataset] + int(self._earlier[offset]))


def whole_turns(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers in the proportion of ``weights``, taken as the decimal numbers that were written.

    Where their sum would be above :data:`LONGEST_PERIOD`, the proportion is kept to that fraction; each is at least 1.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    parts = math.lcm(*(weight.denominator for weight in exact))
    turns = _divided([int(weight * parts) for weight in exact])
    if sum(turns) <= LONGEST_PERIOD:
        return turns
    return _divided([max(1, round(LONGEST_PERIOD * weight / sum(exact))) for weight in exact])


def _divided(numbers: list[int]) -> list[int]:
    divisor = math.gcd(*numbers)
    return [number // divisor for number in numbers]


class TrainingData:
    """The samples of training, of one folder or of several; an epoch is each sample of all of them once."""

    def __init__(self, datasets: Sequence[SampleDataset], seed: int) -> None:
        self.sources = tuple(dataset.source for dataset in datasets)
        self.seq_length = self.sources[0].seq_length
        self.pause_id = self.sources[0].manifest.pause_id
        self.datasets = tuple(datasets)
        self._starts = [0, *accumulate(len(dataset) for dataset in datasets)]
        self._order = SampleOrder(len(self), seed)
        weights = [source.weight for source in self.sources if source.weight is not None]
        self._blend = BlendOrder([len(dataset) for dataset in datasets], weights, seed) if weights else None

    def __len__(self) -> int:
        """Samples of all folders."""
        return self._starts[-1]

    def __call__(self, position: int) -> Sample:
        """The sample at ``position`` of the walk."""
        dataset, index = self.locate(position)
        return self.datasets[dataset][index]

    def locate(self, position: int) -> tuple[int, int]:
        """The dataset at ``position`` of the walk, and its sample."""
        if self._blend:
            return self._blend(position)
        index = self._order(position)
        dataset = bisect_right(self._starts, index) - 1
        return dataset, index - self._starts[dataset]


class ValidationData:
    """The samples of a validation: the first ``limit`` of a dataset as they are stored, then blank ones."""

    def __init__(self, dataset: SampleDataset, limit: int) -> None:
        self.source = dataset.source
        self._dataset = dataset
        self._length = min(len(dataset), limit)
        self._blank = blank_sample(dataset.source)

    def __len__(self) -> int:
        """Samples that are not blank."""
        return self._length

    def __call__(self, position: int) -> Sample:
        """The sample at ``position``; blank from the end on, so that the last batch may be short."""
        return self._dataset[position] if position < self._length else self._blank
