"""What only the tokens can tell: where pauses stand, how far apart, and how long documents are.

Measured on the first sequences of every shard, each giving the same share of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.indexed_reader import IndexFile
from pause_megatron.preprocess.indexed_writer import token_dtype
from pause_megatron.preprocess.manifest import DatasetManifest
from pause_megatron.preprocess.parts import Part, stored_lengths
from pause_megatron.preprocess.pieces import Piece, equal_lengths, read_pieces

DOCUMENT_BINS = 50
"""Parts of equal length that a document is divided into, for the places of pauses in it."""
LONGEST_GAP = 500
"""Real tokens between pauses; longer gaps are counted as this long."""
LONGEST_DOCUMENT = 1 << 20
"""Real tokens of a document; longer ones are counted as this long."""


@dataclass
class Measurements:
    """Counts over the tokens read."""

    tokens: int = 0
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Tokens at each place: position in the sequence or, for documents, :data:`DOCUMENT_BINS` parts of the document."""
    pauses: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Pauses at each place."""
    gaps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LONGEST_GAP + 1, np.int64))
    """How often so many real tokens stand between a pause and the next one of its sequence."""
    documents: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """How many whole documents have so many real tokens, not counting their ends."""

    def document_quantile(self, share: float) -> int:
        """The length in tokens that ``share`` of the documents do not exceed; there must be documents."""
        return int(np.searchsorted(np.cumsum(self.documents), share * self.documents.sum()))


def measure(parts: Sequence[Part], manifest: DatasetManifest, tokens: int) -> Measurements:
    """Measure about ``tokens`` tokens of the dataset (0: all)."""
    share = min(1.0, tokens / max(1, manifest.tokens)) if tokens else 1.0
    places = manifest.seq_length or DOCUMENT_BINS
    found = Measurements(places=np.zeros(places, np.int64), pauses=np.zeros(places, np.int64))
    for part in parts:
        lengths = _lengths(part, manifest, share)
        documents, gaps = _DocumentLengths(manifest), _Gaps()
        for piece in read_pieces(part, lengths, token_dtype(manifest.vocab_size), manifest.pause_id, None):
            found.tokens += len(piece.tokens)
            _count_places(piece, manifest, found)
            found.gaps += np.bincount(gaps.of_piece(piece), minlength=LONGEST_GAP + 1)
            found.documents = _added(found.documents, np.bincount(documents.of_piece(piece)))
    return found


def _lengths(part: Part, manifest: DatasetManifest, share: float) -> Iterator[NDArray[np.int32]]:
    """Lengths of the first sequences of a shard, that together have ``share`` of its tokens."""
    if manifest.seq_length:
        yield from equal_lengths(int(np.ceil(share * part.shard.sequences)), manifest.seq_length)
        return
    left = share * part.shard.tokens
    for lengths in stored_lengths(part, IndexFile.open(part.idx_path)):
        ends = np.cumsum(lengths, dtype=np.int64)
        yield lengths[: int(np.searchsorted(ends, left)) + 1]
        left -= int(ends[-1])
        if left <= 0:
            return


def _count_places(piece: Piece, manifest: DatasetManifest, found: Measurements) -> None:
    positions = np.arange(len(piece.tokens))
    if manifest.seq_length:
        places = (piece.first_token + positions) % manifest.seq_length
    else:
        document = np.searchsorted(piece.starts, positions, side="right") - 1
        lengths = piece.ends - piece.starts
        places = (positions - piece.starts[document]) * DOCUMENT_BINS // lengths[document]
    found.places += np.bincount(places, minlength=len(found.places))
    found.pauses += np.bincount(places[piece.pauses], minlength=len(found.places))


class _Gaps:
    """Finds the gaps between pauses of a shard that follow each other in one sequence."""

    def __init__(self) -> None:
        self._open: int | None = None
        """Real tokens since the last pause of the sequence that goes on in the next piece; None if it has had none."""

    def of_piece(self, piece: Piece) -> NDArray[np.int64]:
        """Real tokens between a pause and the next one, for those whose second pause is in ``piece``."""
        sequence = np.searchsorted(piece.starts, piece.pauses, side="right") - 1
        gaps = np.diff(piece.pauses)[np.diff(sequence) == 0] - 1
        if self._open is not None and len(sequence) and sequence[0] == 0 and piece.starts[0] < 0:
            gaps = np.append(gaps, self._open + int(piece.pauses[0]))
        last = len(piece.starts) - 1
        if piece.finished > last:
            self._open = None
        elif len(sequence) and sequence[-1] == last:
            self._open = len(piece.tokens) - 1 - int(piece.pauses[-1])
        elif last or piece.starts[0] == 0:
            self._open = None
        elif self._open is not None:
            self._open += len(piece.tokens)
        return _capped(gaps, LONGEST_GAP)


def _added(counts: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    longer, shorter = (counts, more) if len(counts) >= len(more) else (more, counts)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


class _DocumentLengths:
    """Finds the documents of a shard that are stored whole.

    Where sequences continue each other a document may go through several; where text was dropped between them, only
    those inside one sequence are known to be whole.
    """

    def __init__(self, manifest: DatasetManifest) -> None:
        self._eod_id = manifest.eod_id
        self._dropped = manifest.trimmed == "drop"
        self._open = 0
        """Real tokens since the last end of a document."""

    def of_piece(self, piece: Piece) -> NDArray[np.int64]:
        """Real tokens of the documents that end in ``piece``, without their ends."""
        ends = np.flatnonzero(piece.tokens == self._eod_id)
        real_before = ends - np.searchsorted(piece.pauses, ends)
        lengths = np.diff(real_before, prepend=-1) - 1
        if self._dropped:
            sequence = np.searchsorted(piece.starts, ends, side="right")
            return _capped(lengths[1:][np.diff(sequence) == 0], LONGEST_DOCUMENT)
        if len(lengths):
            lengths[0] += self._open
            self._open = 0
        real = len(piece.tokens) - len(piece.pauses)
        self._open += real - (int(real_before[-1]) + 1 if len(ends) else 0)
        return _capped(lengths, LONGEST_DOCUMENT)


def _capped(lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    capped: NDArray[np.int64] = np.minimum(lengths, most)
    return capped
