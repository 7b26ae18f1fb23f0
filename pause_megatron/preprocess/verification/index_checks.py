"""Checks of ``.bin`` and ``.idx`` pairs: sizes, header, hash of the index, and the index entries of each shard."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.pauses.insertion import DocumentPauses
from pause_megatron.preprocess.dataset_manifest import StoredFile
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import (
    HEADER,
    SEQUENCES_AT_ONCE,
    IndexFile,
    chunk_ranges,
    stream_index,
    token_dtype,
)
from pause_megatron.preprocess.shard_spans import ShardSpan, stored_lengths
from pause_megatron.preprocess.shard_writer import make_strategy
from pause_megatron.preprocess.token_blocks import sha256_of
from pause_megatron.preprocess.verification.faults import Faults


def check_file(folder: Path, file: StoredFile, settings: DatasetSettings, hashes: bool) -> Faults:
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
    return faults


def check_index(span: ShardSpan, index: IndexFile, settings: DatasetSettings, faults: Faults) -> bool:
    """Check the entries of the shard ``span`` in ``index``; returns whether the lengths are possible and complete."""
    tokens, possible = 0, True
    documents = make_strategy(settings, span.shard.index)
    for start, stop in chunk_ranges(span.first_sequence, span.after_last_sequence, SEQUENCES_AT_ONCE):
        lengths = index.lengths(start, stop)
        if not isinstance(documents, DocumentPauses):
            wrong, expected = lengths != settings.seq_length, str(settings.seq_length)
        else:
            wrong = documents.text_lengths(lengths, start - span.first_sequence) < 1
            expected = f"the length of a document of at least one token with pauses at a rate of {settings.pause_rate}"
        possible &= not wrong.any()
        _add(faults, span, "length", start, wrong, HEADER.size + 4 * start, lengths, expected)
        ends = np.cumsum(lengths, dtype=np.int64)
        due = span.first_byte + (tokens + ends - lengths) * index.dtype.itemsize
        offsets = index.offsets(start, stop)
        byte = index.offsets_start() + 8 * start
        _add(faults, span, "offset in the .bin file", start, offsets != due, byte, offsets, due)
        tokens += int(ends[-1])
    for start, stop in chunk_ranges(span.first_sequence, span.after_last_sequence + 1, SEQUENCES_AT_ONCE):
        boundaries, due = index.boundaries(start, stop), np.arange(start, stop)
        byte = index.boundaries_start() + 8 * start
        _add(faults, span, "document boundary", start, boundaries != due, byte, boundaries, due)
    subject = f"{span.label('.idx')}: tokens of all lengths are"
    return faults.expect("length sum", subject, tokens, span.shard.tokens) and possible


def _add(
    faults: Faults,
    span: ShardSpan,
    name: str,
    start: int,
    wrong: NDArray[np.bool_],
    byte: int,
    found: NDArray[np.integer],
    expected: NDArray[np.int64] | str,
) -> None:
    """Add a fault for the ``wrong`` entries of a chunk that begins with sequence ``start`` at ``byte`` of the index."""
    places = np.flatnonzero(wrong)
    if len(places):
        place = int(places[0])
        faults.add(
            name,
            f"{span.label('.idx')}: sequence {start + place} (byte {byte + found.itemsize * place}): {name} "
            f"{found[place]}, expected {expected if isinstance(expected, str) else expected[place]}",
            len(places),
        )


def check_own_index(span: ShardSpan, index: IndexFile, faults: Faults) -> None:
    """Check a merged shard's lengths against the hash of the index that the shard had before merging."""
    digest = hashlib.sha256()
    for content in stream_index(lambda: stored_lengths(span, index), span.shard.sequences, index.dtype):
        digest.update(content)
    if digest.hexdigest() != span.shard.idx_sha256:
        faults.add("own index", f"{span.label('.idx')}: the lengths of its sequences are not those it was written with")
