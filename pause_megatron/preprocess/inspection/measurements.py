"""Measurements on stored tokens: places of pauses, gaps between them, and lengths of documents.

They use the first sequences of every shard, the same share of each shard's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.dataset_manifest import DatasetManifest
from pause_megatron.preprocess.shard_spans import ShardSpan
from pause_megatron.preprocess.token_blocks import TokenBlock, read_blocks

DOCUMENT_BINS = 50
"""Parts of equal length into which a document is divided to count the places of its pauses."""
LONGEST_GAP = 500
"""Real tokens between two pauses; longer gaps count as this long."""
LONGEST_DOCUMENT = 1 << 20
"""Real tokens of a document; longer documents count as this long."""


def _no_counts() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass
class Measurements:
    """Counts over the tokens read."""

    tokens: int = 0
    places: NDArray[np.int64] = field(default_factory=_no_counts)
    """Tokens at each place: position in the sequence, or one of :data:`DOCUMENT_BINS` parts of a document."""
    pauses: NDArray[np.int64] = field(default_factory=_no_counts)
    """Pauses at each place."""
    gaps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LONGEST_GAP + 1, np.int64))
    """Number of gaps (real tokens between a pause and the next one of its sequence) by length."""
    documents: NDArray[np.int64] = field(default_factory=_no_counts)
    """Number of complete documents by their real tokens, without the end."""

    def document_quantile(self, share: float) -> int:
        """Return the length in tokens that ``share`` of the documents do not exceed; there must be documents."""
        return int(np.searchsorted(np.cumsum(self.documents), share * self.documents.sum()))


def measure(spans: Sequence[ShardSpan], manifest: DatasetManifest, tokens: int) -> Measurements:
    """Measure about ``tokens`` tokens of the dataset (0: all)."""
    share = min(1.0, tokens / max(1, manifest.tokens)) if tokens else 1.0
    places = manifest.seq_length or DOCUMENT_BINS
    found = Measurements(places=np.zeros(places, np.int64), pauses=np.zeros(places, np.int64))
    for span in spans:
        documents, gaps = _DocumentLengths(manifest), _Gaps()
        for block in read_blocks(span, manifest, share=share):
            found.tokens += len(block.tokens)
            _count_places(block, manifest, found)
            found.gaps += np.bincount(gaps.of_block(block), minlength=LONGEST_GAP + 1)
            found.documents = _added(found.documents, np.bincount(documents.of_block(block)))
    return found


def _count_places(block: TokenBlock, manifest: DatasetManifest, found: Measurements) -> None:
    positions = np.arange(len(block.tokens))
    if manifest.seq_length:
        places = positions % manifest.seq_length  # a block starts with a sequence
    else:
        place = np.repeat(np.arange(len(block.lengths)), block.lengths_here)  # document of each token
        places = (positions - block.starts[place]) * DOCUMENT_BINS // block.lengths[place]
    found.places += np.bincount(places, minlength=len(found.places))
    found.pauses += np.bincount(places[block.is_pause], minlength=len(found.places))


class _Gaps:
    """Finds the gaps between consecutive pauses of one sequence."""

    def __init__(self) -> None:
        self._last = np.empty(0, np.int64)
        """Index in the shard of the last pause of the last block; empty if it had none."""

    def of_block(self, block: TokenBlock) -> NDArray[np.int64]:
        """Return the real tokens between each pause of ``block`` and the pause before it in its sequence."""
        pauses = np.flatnonzero(block.is_pause) + block.first_token
        if block.offset:  # a document continues, so its first pause here follows the last one there
            pauses = np.append(self._last, pauses)
        same_sequence = np.diff(np.searchsorted(block.ends + block.first_token, pauses, side="right")) == 0
        self._last = pauses[-1:]
        return _capped(np.diff(pauses)[same_sequence] - 1, LONGEST_GAP)


def _added(counts: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    longer, shorter = (counts, more) if len(counts) >= len(more) else (more, counts)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


class _DocumentLengths:
    """Finds the complete documents of a shard and their lengths.

    If each sequence continues the text of the one before it, a document may lie in several sequences. If text was
    dropped between them, only a document inside one sequence is known to be complete.
    """

    def __init__(self, manifest: DatasetManifest) -> None:
        self._eod_id = manifest.eod_id
        self._dropped = manifest.trimmed == "drop"
        self._open = 0
        """Real tokens since the last end of a document."""

    def of_block(self, block: TokenBlock) -> NDArray[np.int64]:
        """Return the real tokens of the documents that end in ``block``, without their ends."""
        ends = np.flatnonzero(block.tokens == self._eod_id)
        real_so_far = np.cumsum(~block.is_pause)  # [tokens]
        lengths = np.diff(real_so_far[ends], prepend=0) - 1
        if self._dropped:
            sequence = np.searchsorted(block.ends, ends, side="right")
            return _capped(lengths[1:][np.diff(sequence) == 0], LONGEST_DOCUMENT)
        lengths[:1] += self._open
        self._open = int(real_so_far[-1] - real_so_far[ends[-1]] if len(ends) else self._open + real_so_far[-1])
        return _capped(lengths, LONGEST_DOCUMENT)


def _capped(lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    capped: NDArray[np.int64] = np.minimum(lengths, most)
    return capped
