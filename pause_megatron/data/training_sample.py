"""A training sample, and what both kinds of dataset have in common."""

from __future__ import annotations

from typing import Protocol

import torch

from pause_megatron.data.data_folders import DataFolder
from pause_megatron.pauses.loss_mask import loss_mask

Sample = dict[str, torch.Tensor]
"""A sample as Megatron-core's datasets give it; all tensors are ``[seq_length]``.

``tokens``: input ids, int64. ``labels``: the token after each, int64. ``loss_mask``: 1.0 where the label carries loss,
0.0 where it is ``<pause>``, float32. ``position_ids``: 0 to seq_length - 1, pauses counted as any token, int64.
"""


class SampleDataset(Protocol):
    """The samples of one folder."""

    source: DataFolder

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def make_sample(tokens: torch.Tensor, labels: torch.Tensor, pause_id: int) -> Sample:
    """A sample of ``tokens`` and ``labels``, with the loss mask that follows from the labels."""
    return {
        "tokens": tokens,
        "labels": labels,
        "loss_mask": loss_mask(labels, pause_id).float(),
        "position_ids": torch.arange(len(tokens)),
    }


def blank_sample(source: DataFolder) -> Sample:
    """A sample without any loss, to fill a batch up with."""
    length, pause_id = source.seq_length, source.manifest.pause_id
    return make_sample(torch.zeros(length, dtype=torch.int64), torch.full((length,), pause_id), pause_id)
