"""Single stored sequences with what training makes of them: the targets, and which of them carry loss."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.pauses.loss_mask import loss_mask
from pause_megatron.preprocess.indexed_reader import IndexFile
from pause_megatron.preprocess.manifest import DatasetManifest
from pause_megatron.preprocess.shard_spans import ShardSpan


@dataclass(frozen=True)
class StoredSample:
    """One stored sequence."""

    index: int
    """Among all sequences of the dataset."""
    span: ShardSpan
    place: int
    """Among the sequences of its shard."""
    tokens: NDArray[np.integer]
    """Token ids, shape ``[tokens]``."""
    has_loss: NDArray[np.bool_]
    """Which positions carry loss, that is, whose target (the token after it) is no pause; shape ``[tokens]``."""


def choose_indices(wanted: Sequence[int], samples: int, sequences: int) -> Sequence[int]:
    """The sequences to show: those ``wanted``, or ``samples`` of them evenly spread.

    Raises :class:`UserError` for an index there is no sequence for.
    """
    for index in wanted:
        if index >= sequences:
            raise UserError(f"--indices {index}: the dataset has {sequences} sequences, from 0 to {sequences - 1}")
    count = min(samples, sequences)
    return wanted or [sequences * place // count for place in range(count)]


def read_sample(spans: Sequence[ShardSpan], manifest: DatasetManifest, index: int) -> StoredSample:
    """Read stored sequence ``index`` of the dataset that consists of ``spans``.

    The target of its last position is the first token of the sequence that continues it in its shard; where none does,
    there is no target and no loss. A document's last position predicts the first token of whichever document Megatron
    packs behind it, which is never a pause.
    """
    starts = [0, *accumulate(span.shard.sequences for span in spans)]
    number = bisect_right(starts, index) - 1
    span, place = spans[number], index - starts[number]
    file = IndexFile.open(span.idx_path)
    in_file = span.first_sequence + place
    length, offset = int(file.lengths(in_file, in_file + 1)[0]), int(file.offsets(in_file, in_file + 1)[0])
    continued = manifest.trimmed == "carry" and manifest.seq_length > 0 and place + 1 < span.shard.sequences
    tokens = np.fromfile(span.bin_path, file.dtype, length + int(continued), offset=offset)
    targets = tokens[1:]
    if not continued:
        after = manifest.eod_id if manifest.strategy == "document" else manifest.pause_id
        targets = np.append(targets, np.array(after, tokens.dtype))
    return StoredSample(index, span, place, tokens[:length], loss_mask(targets, manifest.pause_id))
