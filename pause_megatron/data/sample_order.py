"""Order of the samples: which sample is at each position of training or validation.

The order is a function of the seed and the position only. A run therefore resumes with the same data, also under
another layout or with more iterations, if the global batch size is the same. Megatron-core's ``BlendedDataset`` cannot
do this: its table is as long as the run, and it blends datasets of one kind only.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

import numpy as np
from megatron.core.datasets import helpers

from pause_megatron.data.sample_origins import read_sample
from pause_megatron.data.training_sample import Sample, SampleDataset, blank_sample

LONGEST_PERIOD = 1_000_000
"""Maximum number of samples after which a weighted blend repeats its sequence of datasets."""


class SampleOrder:
    """Endless shuffled order of ``num_samples`` samples: a new permutation each epoch. Threads may share it."""

    def __init__(self, num_samples: int, *seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self._newest = (-1, np.arange(0))

    def __call__(self, position: int) -> int:
        """Return the index of the sample at ``position``."""
        epoch, offset = divmod(position, self.num_samples)
        newest, permutation = self._newest  # one assignment replaces both, so that another thread never mixes them
        if epoch != newest:
            # Every process holds it, so use the smallest integer type: 4 bytes per sample for billions of samples.
            permutation = np.arange(self.num_samples, dtype=np.min_scalar_type(self.num_samples))
            np.random.default_rng([*self.seed, epoch]).shuffle(permutation)
            self._newest = epoch, permutation
        return int(permutation[offset])


class BlendOrder:
    """Endless order of several datasets in proportion to their weights.

    After any number of samples each dataset's count is within one sample of its weight's share. For example, with
    weights 2 and 1, the first dataset gives 200 of every 300 samples. Each dataset has its own shuffled order, and
    repeats when it is used up.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.orders = [SampleOrder(size, seed, dataset) for dataset, size in enumerate(sizes)]
        self.turns = whole_turns(weights)
        period = sum(self.turns)
        # One period of Megatron-core's blending, which repeats: the dataset at each offset [period], and the number of
        # samples of that dataset before it [period].
        self._datasets, self._earlier = np.zeros(period, np.int16), np.zeros(period, np.int64)
        helpers.build_exhaustive_blending_indices(self._datasets, self._earlier, self.turns, len(self.turns))

    def __call__(self, position: int) -> tuple[int, int]:
        """Return the index of the dataset at ``position``, and of the sample in it."""
        periods, offset = divmod(position, len(self._datasets))
        dataset = int(self._datasets[offset])
        return dataset, self.orders[dataset](periods * self.turns[dataset] + int(self._earlier[offset]))


def whole_turns(weights: Sequence[float]) -> list[int]:
    """Return the smallest integers in proportion to ``weights``, for example ``[7, 3]`` for ``[0.7, 0.3]``.

    The weights count as the decimal numbers that the user wrote. If the sum would exceed :data:`LONGEST_PERIOD`, the
    integers are rounded to about that sum, and are at least 1.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    parts = math.lcm(*(weight.denominator for weight in exact))
    turns = [int(weight * parts) for weight in exact]
    if sum(turns) // math.gcd(*turns) > LONGEST_PERIOD:
        turns = [max(1, round(LONGEST_PERIOD * weight / sum(exact))) for weight in exact]
    divisor = math.gcd(*turns)
    return [turn // divisor for turn in turns]


class TrainingData:
    """Samples of training, from one folder or several; one epoch is every sample of all folders once."""

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
        return self._starts[-1]

    def __call__(self, position: int) -> Sample:
        """Return the sample at ``position``. Raises as :func:`read_sample` does."""
        dataset, index = self.locate(position)
        return read_sample(self.datasets[dataset], index)

    def locate(self, position: int) -> tuple[int, int]:
        """Return the index of the dataset at ``position``, and of the sample in it."""
        if self._blend:
            return self._blend(position)
        index = self._order(position)
        dataset = bisect_right(self._starts, index) - 1
        return dataset, index - self._starts[dataset]


class ValidationData:
    """Samples of validation: the first ``limit`` samples of a dataset in stored order, then blank samples.

    Blank samples carry no loss and fill up the last batch; the length does not count them.
    """

    def __init__(self, dataset: SampleDataset, limit: int) -> None:
        self.source = dataset.source
        self._dataset = dataset
        self._length = min(len(dataset), limit)
        self._blank = blank_sample(dataset.source)

    def __len__(self) -> int:
        return self._length

    def __call__(self, position: int) -> Sample:
        """Return the sample at ``position``. Raises as :func:`read_sample` does."""
        return read_sample(self._dataset, position) if position < self._length else self._blank

    @property
    def seq_length(self) -> int:
        """Tokens of a sample."""
        return self.source.seq_length
