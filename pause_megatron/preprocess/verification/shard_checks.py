"""All checks of one shard: the worker body of verification."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetSettings
from pause_megatron.preprocess.indexed_files import IndexFile, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan, stored_lengths
from pause_megatron.preprocess.token_blocks import equal_lengths, read_blocks, sha256_of
from pause_megatron.preprocess.verification.faults import FaultReport, Faults
from pause_megatron.preprocess.verification.index_checks import check_index, check_own_index
from pause_megatron.preprocess.verification.manifest_checks import check_entry, check_twin_counts
from pause_megatron.preprocess.verification.replay import Replay


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """One shard to check."""

    span: ShardSpan
    settings: DatasetSettings
    merged: bool
    """Whether the shard's files were joined with those of others."""
    twin: ShardSpan | None
    """The same shard of the dataset without pauses, to compare the text with."""
    hashes: bool


def check_shard(check: ShardCheck) -> FaultReport:
    """Check one shard. Skips what cannot be checked because of a fault of the file that ``check_file`` reports."""
    span, faults = check.span, Faults()
    sizes_fit = check_entry(span, check.settings, check.merged, faults)
    index = _sound_index(span, check.settings)
    lengths_fit = index is not None and check_index(span, index, check.settings, faults)
    if index and lengths_fit and check.hashes and check.merged:
        check_own_index(span, index, faults)
    compared = 0
    if span.bin_path.is_file() and span.bin_path.stat().st_size >= span.after_last_byte:
        if sizes_fit and (check.settings.seq_length or lengths_fit):
            compared = _check_tokens(check, index, faults)
        elif check.hashes:
            _compare_hash(span, sha256_of(span.bin_path, span.first_byte, span.shard.bin_bytes), faults)
    return FaultReport(faults=faults.lines(), compared_tokens=compared)


def _sound_index(span: ShardSpan, settings: DatasetSettings) -> IndexFile | None:
    try:
        index = IndexFile.open(span.idx_path)
    except UserError:
        return None
    as_expected = (index.dtype, index.sequences) == (token_dtype(settings.vocab_size), span.file.sequences)
    return index if as_expected else None


def _check_tokens(check: ShardCheck, index: IndexFile | None, faults: Faults) -> int:
    """Read the shard once; returns the number of tokens compared with its twin."""
    span, settings = check.span, check.settings
    if settings.seq_length:
        lengths = equal_lengths(span.shard.sequences, settings.seq_length)
    else:
        assert index is not None, "the lengths of documents come from their index"
        lengths = stored_lengths(span, index)
    if check.twin:
        check_twin_counts(span, check.twin, faults)
    digest = hashlib.sha256() if check.hashes else None
    replay = Replay(span, settings, check.twin, faults)
    for block in read_blocks(span, lengths, settings, digest):
        replay.add(block)
    replay.finish()
    if digest:
        _compare_hash(span, digest.hexdigest(), faults)
    return replay.compared_tokens


def _compare_hash(span: ShardSpan, found: str, faults: Faults) -> None:
    if found != span.shard.bin_sha256:
        faults.add(
            "bin hash",
            f"{span.label}: the SHA-256 of bytes {span.first_byte} to {span.after_last_byte} is not the manifest's; "
            "the content has changed",
        )
