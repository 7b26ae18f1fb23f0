"""All checks of one shard: the worker body of verification."""

from __future__ import annotations

import hashlib

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetSettings
from pause_megatron.preprocess.indexed_files import IndexFile, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan
from pause_megatron.preprocess.token_blocks import read_blocks, sha256_of
from pause_megatron.preprocess.verification.faults import Faults
from pause_megatron.preprocess.verification.index_checks import check_index, check_own_index
from pause_megatron.preprocess.verification.manifest_checks import check_entry
from pause_megatron.preprocess.verification.replay import Replay


def check_shard(
    span: ShardSpan, settings: DatasetSettings, merged: bool, twin: ShardSpan | None, hashes: bool
) -> Faults:
    """Check one shard. A fault of its files, which ``check_file`` reports, skips the checks that need them.

    Args:
        span: the shard.
        settings: settings of its dataset.
        merged: whether its files were joined with those of other shards.
        twin: the same shard of the dataset without pauses, to compare the text with.
        hashes: whether to compare checksums.
    """
    faults = Faults()
    sizes_fit = check_entry(span, settings, merged, faults)
    index = _matching_index(span, settings)
    lengths_fit = index is not None and check_index(span, index, settings, faults)
    if index and lengths_fit and hashes and merged:
        check_own_index(span, index, faults)
    if not span.bin_path.is_file() or span.bin_path.stat().st_size < span.after_last_byte:
        return faults
    if sizes_fit and (settings.seq_length or lengths_fit):
        digest = hashlib.sha256()
        replay = Replay(span, settings, twin, faults)
        for block in read_blocks(span, settings, digest=digest if hashes else None):
            replay.add(block)
        replay.finish()
        found = digest.hexdigest()
    else:
        found = sha256_of(span.bin_path, span.first_byte, span.shard.bin_bytes) if hashes else ""
    if hashes and found != span.shard.bin_sha256:
        faults.add(
            "bin hash",
            f"{span.label()}: the SHA-256 of bytes {span.first_byte} to {span.after_last_byte} is not the manifest's; "
            "the content has changed",
        )
    return faults


def _matching_index(span: ShardSpan, settings: DatasetSettings) -> IndexFile | None:
    """Open the index; None if it is damaged or does not fit the manifest."""
    try:
        index = IndexFile.open(span.idx_path)
    except UserError:
        return None
    fits = (index.dtype, index.sequences) == (token_dtype(settings.vocab_size), span.file.sequences)
    return index if fits else None
