"""Checks of a shard's share of the index: lengths, offsets and document boundaries."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.indexed_reader import SEQUENCES_AT_ONCE, IndexFile, spans
from pause_megatron.preprocess.indexed_writer import HEADER, stream_index
from pause_megatron.preprocess.manifest import DatasetSettings
from pause_megatron.preprocess.parts import Part, stored_lengths
from pause_megatron.preprocess.verification.faults import Faults


def check_index(part: Part, index: IndexFile, settings: DatasetSettings, faults: Faults) -> bool:
    """Check the entries of ``part`` in ``index``; returns whether the lengths are sound and cover the shard."""
    tokens, sound = 0, True
    for start, stop in spans(part.first_sequence, part.after_last_sequence, SEQUENCES_AT_ONCE):
        lengths = index.lengths(start, stop)
        sound &= _check_lengths(part, start, lengths, settings.seq_length, faults)
        ends = np.cumsum(lengths, dtype=np.int64)
        expected = part.first_byte + (tokens + ends - lengths) * index.dtype.itemsize
        _compare(part, "offset", start, index.offsets(start, stop), expected, index.offsets_start(), faults)
        tokens += int(ends[-1])
    for start, stop in spans(part.first_sequence, part.after_last_sequence + 1, SEQUENCES_AT_ONCE):
        found = index.boundaries(start, stop)
        _compare(part, "boundary", start, found, np.arange(start, stop), index.boundaries_start(), faults)
    return (
        faults.expect("length sum", f"{_label(part)}: tokens of all lengths are", tokens, part.shard.tokens) and sound
    )


def _check_lengths(part: Part, start: int, lengths: NDArray[np.int32], seq_length: int, faults: Faults) -> bool:
    """A document has at least one token and the end-of-document token behind it."""
    wrong = np.flatnonzero(lengths != seq_length if seq_length else lengths < 2)
    if len(wrong):
        place = int(wrong[0])
        faults.add(
            "length",
            f"{_label(part)}: sequence {start + place} (byte {HEADER.size + 4 * (start + place)}): length "
            f"{lengths[place]}, expected {seq_length or 'at least 2'}",
            len(wrong),
        )
    return not len(wrong)


def _compare(
    part: Part,
    what: str,
    start: int,
    found: NDArray[np.int64],
    expected: NDArray[np.int64],
    section: int,
    faults: Faults,
) -> None:
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        place = int(wrong[0])
        name = "offset in the .bin file" if what == "offset" else "document boundary"
        faults.add(
            what,
            f"{_label(part)}: sequence {start + place} (byte {section + 8 * (start + place)}): {name} "
            f"{found[place]}, expected {expected[place]}",
            len(wrong),
        )


def check_own_index(part: Part, index: IndexFile, faults: Faults) -> None:
    """For a shard that was merged: its lengths must give the index it had of its own, whose hash is in the manifest."""
    digest = hashlib.sha256()
    for piece in stream_index(lambda: stored_lengths(part, index), part.shard.sequences, index.dtype):
        digest.update(piece)
    if digest.hexdigest() != part.shard.idx_sha256:
        faults.add("own index", f"{_label(part)}: the lengths of its sequences are not those it was written with")


def _label(part: Part) -> str:
    return str(part.idx_path) + (f", shard {part.shard.name}" if len(part.file.shards) > 1 else "")
