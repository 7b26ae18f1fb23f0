"""Checks of ``.bin`` and ``.idx`` pairs: sizes, header, hash of the index, and the index entries of each shard."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.pauses.insertion import text_lengths_of
from pause_megatron.preprocess.dataset_manifest import DatasetSettings, StoredFile
from pause_megatron.preprocess.indexed_files import (
    HEADER,
    SEQUENCES_AT_ONCE,
    IndexFile,
    chunk_ranges,
    stream_index,
    token_dtype,
)
from pause_megatron.preprocess.shard_spans import ShardSpan, stored_lengths
from pause_megatron.preprocess.token_blocks import sha256_of
from pause_megatron.preprocess.verification.faults import FaultReport, Faults


def check_file(folder: Path, file: StoredFile, settings: DatasetSettings, hashes: bool) -> FaultReport:
    """Check the sizes of the pair ``file`` in ``folder``, and the header and hash of its index."""
    faults = Faults()
    for suffix, size in ((".bin", file.bin_bytes), (".idx", file.idx_bytes)):
        path = folder / (file.name + suffix)
        if not path.is_file():
            faults.add(f"{suffix} missing", f"{path}: missing, though the manifest lists it")
        else:
            faults.expect(f"{suffix} size", f"{path}: size in bytes is", path.stat().st_size, size)
    path = folder / f"{file.name}.idx"
    if path.is_file() and path.stat().st_size == file.idx_bytes:
        try:
            index = IndexFile.open(path)
        except UserError as error:
            faults.add("header", str(error))
        else:
            dtype = token_dtype(settings.vocab_size)
            faults.expect("dtype", f"{path}: token dtype at byte 17 is", index.dtype, dtype)
            faults.expect("count", f"{path}: number of sequences at byte 18 is", index.sequences, file.sequences)
        if hashes and sha256_of(path, 0, file.idx_bytes) != file.idx_sha256:
            faults.add("hash", f"{path}: its SHA-256 is not the manifest's; its content has changed")
    return FaultReport(faults=faults.lines())


def check_index(span: ShardSpan, index: IndexFile, settings: DatasetSettings, faults: Faults) -> bool:
    """Check the entries of the shard ``span`` in ``index``; returns whether the lengths are possible and complete."""
    tokens, possible = 0, True
    for start, stop in chunk_ranges(span.first_sequence, span.after_last_sequence, SEQUENCES_AT_ONCE):
        lengths = index.lengths(start, stop)
        possible &= _check_lengths(span, start, lengths, settings, faults)
        ends = np.cumsum(lengths, dtype=np.int64)
        expected = span.first_byte + (tokens + ends - lengths) * index.dtype.itemsize
        found = index.offsets(start, stop)
        _compare(span, "offset in the .bin file", start, found, expected, index.offsets_start(), faults)
        tokens += int(ends[-1])
    for start, stop in chunk_ranges(span.first_sequence, span.after_last_sequence + 1, SEQUENCES_AT_ONCE):
        found = index.boundaries(start, stop)
        _compare(span, "document boundary", start, found, np.arange(start, stop), index.boundaries_start(), faults)
    complete = faults.expect("sum", f"{_label(span)}: tokens of all lengths are", tokens, span.shard.tokens)
    return possible and complete


def _check_lengths(
    span: ShardSpan, start: int, lengths: NDArray[np.int32], settings: DatasetSettings, faults: Faults
) -> bool:
    if settings.seq_length:
        wrong, expected = np.flatnonzero(lengths != settings.seq_length), str(settings.seq_length)
    else:
        wrong = np.flatnonzero(text_lengths_of(settings.pause_rate, lengths) < 1)
        expected = f"the length of a document of at least one token with pauses at a rate of {settings.pause_rate}"
    if len(wrong):
        sequence = start + int(wrong[0])
        faults.add(
            "length",
            f"{_label(span)}: sequence {sequence} (byte {HEADER.size + 4 * sequence}): length "
            f"{lengths[wrong[0]]}, expected {expected}",
            len(wrong),
        )
    return not len(wrong)


def _compare(
    span: ShardSpan,
    name: str,
    start: int,
    found: NDArray[np.int64],
    expected: NDArray[np.int64],
    section: int,
    faults: Faults,
) -> None:
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        place = int(wrong[0])
        faults.add(
            name,
            f"{_label(span)}: sequence {start + place} (byte {section + 8 * (start + place)}): {name} "
            f"{found[place]}, expected {expected[place]}",
            len(wrong),
        )


def check_own_index(span: ShardSpan, index: IndexFile, faults: Faults) -> None:
    """Check a merged shard's lengths against the hash of the index that the shard had before merging."""
    digest = hashlib.sha256()
    for content in stream_index(lambda: stored_lengths(span, index), span.shard.sequences, index.dtype):
        digest.update(content)
    if digest.hexdigest() != span.shard.idx_sha256:
        faults.add("own index", f"{_label(span)}: the lengths of its sequences are not those it was written with")


def _label(span: ShardSpan) -> str:
    return str(span.idx_path) + (f", shard {span.shard.name}" if len(span.file.shards) > 1 else "")
