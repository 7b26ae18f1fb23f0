"""Training sample, and the interface of the datasets that hold them."""

from typing import Protocol

import torch

from pause_megatron.data.data_folders import DataFolder
from pause_megatron.pauses.loss_mask import loss_mask

Sample = dict[str, torch.Tensor]
"""Sample with the keys of Megatron-core's datasets; all tensors are ``[seq_length]``.

``tokens``: input ids, int64. ``labels``: next token of each position, int64. ``loss_mask``: 1.0 for labels that count
in the loss, 0.0 for ``<pause>``, float32. ``position_ids``: 0 to seq_length - 1, pauses included, int64.
"""


class SampleDataset(Protocol):
    """Samples of one folder."""

    source: DataFolder

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def make_sample(tokens: torch.Tensor, labels: torch.Tensor, pause_id: int) -> Sample:
    """Return the sample of ``tokens`` and ``labels``, both ``[seq_length]``; the labels decide the loss mask."""
    return {
        "tokens": tokens,
        "labels": labels,
        "loss_mask": loss_mask(labels, pause_id).float(),
        "position_ids": torch.arange(len(tokens)),
    }


def blank_sample(source: DataFolder) -> Sample:
    """Return a sample without loss, to fill up a batch."""
    length, pause_id = source.seq_length, source.manifest.pause_id
    return make_sample(torch.zeros(length, dtype=torch.int64), torch.full((length,), pause_id), pause_id)
