"""Measurements on stored tokens: places of pauses, gaps between them, and lengths of documents.

They use the first sequences of every shard, the same share of each shard's tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.dataset_manifest import DatasetManifest
from pause_megatron.preprocess.shard_spans import ShardSpan
from pause_megatron.preprocess.token_blocks import TokenBlock, read_blocks

DOCUMENT_BINS = 50  # parts of equal length of a document, for the places of its pauses
LONGEST_GAP = 500  # real tokens between two pauses; longer gaps count as this long
LONGEST_DOCUMENT = 1 << 20  # real tokens; longer documents count as this long


@dataclass
class Measurements:
    """Counts over the tokens read."""

    places: NDArray[np.int64]
    """Tokens at each place: position in the sequence, or one of :data:`DOCUMENT_BINS` parts of a document."""
    pauses: NDArray[np.int64]
    """Pauses at each place."""
    tokens: int = 0
    gaps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LONGEST_GAP + 1, np.int64))
    """Number of gaps (real tokens between a pause and the next one of its sequence) by length."""
    documents: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
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
            more = np.bincount(documents.of_block(block), minlength=len(found.documents))
            more[: len(found.documents)] += found.documents
            found.documents = more
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
        gaps: NDArray[np.int64] = np.diff(pauses)[same_sequence] - 1
        return gaps.clip(max=LONGEST_GAP)


class _DocumentLengths:
    """Finds the complete documents of a shard; if text was dropped between sequences, only those inside a sequence."""

    def __init__(self, manifest: DatasetManifest) -> None:
        self._eod_id = manifest.eod_id
        self._dropped = manifest.trimmed == "drop"
        self._open = 0
        """Real tokens since the last end of a document."""

    def of_block(self, block: TokenBlock) -> NDArray[np.int64]:
        """Return the real tokens of the documents that end in ``block``, without their ends."""
        ends = np.flatnonzero(block.tokens == self._eod_id)
        real_so_far = np.cumsum(~block.is_pause)  # [tokens]
        lengths: NDArray[np.int64] = np.diff(real_so_far[ends], prepend=0) - 1
        if self._dropped:
            sequence = np.searchsorted(block.ends, ends, side="right")
            lengths = lengths[1:][np.diff(sequence) == 0]
        else:
            lengths[:1] += self._open
            self._open = int(real_so_far[-1] - real_so_far[ends[-1]] if len(ends) else self._open + real_so_far[-1])
        return lengths.clip(max=LONGEST_DOCUMENT)
