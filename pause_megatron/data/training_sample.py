"""Training sample, and the interface of the datasets that hold them."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pause_megatron.data.data_folders import DataFolder

Sample = NDArray[np.integer]
"""Tokens of a sequence and the token after them, ``[seq_length + 1]``.

The inputs are all but the last token, and the labels are all but the first. A label that is ``<pause>`` carries no
loss, so a sample without a token after it ends with ``<pause>``.
"""


class SampleDataset(Protocol):
    """Samples of one folder."""

    source: DataFolder

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def blank_sample(source: DataFolder) -> Sample:
    """Return a sample without loss, to fill up a batch: every label is ``<pause>``."""
    return np.full(source.seq_length + 1, source.manifest.pause_id)
