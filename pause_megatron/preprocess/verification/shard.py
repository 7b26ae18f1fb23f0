"""All checks of one shard: the worker body of verification."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pause_megatron.errors import UserError
from pause_megatron.preprocess.indexed_reader import IndexFile
from pause_megatron.preprocess.indexed_writer import token_dtype
from pause_megatron.preprocess.manifest import DatasetSettings
from pause_megatron.preprocess.parts import Part, stored_lengths
from pause_megatron.preprocess.pieces import equal_lengths, read_pieces, sha256_of
from pause_megatron.preprocess.verification.entries import check_entry
from pause_megatron.preprocess.verification.faults import Faults, Verdict
from pause_megatron.preprocess.verification.index import check_index, check_own_index
from pause_megatron.preprocess.verification.positions import PositionCheck
from pause_megatron.preprocess.verification.tokens import TokenScan
from pause_megatron.preprocess.verification.twin import TwinCheck


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """One shard to check."""

    part: Part
    settings: DatasetSettings
    merged: bool
    """Whether its own files have been joined with others'."""
    standard: Part | None
    """Its twin without pauses, to be compared with."""
    hashes: bool


def check_shard(check: ShardCheck) -> Verdict:
    """Check one shard. What the file as a whole is at fault for has been said by ``check_file`` and is passed over."""
    part, faults = check.part, Faults()
    sizes_fit = check_entry(part, check.settings, check.merged, faults)
    index = _sound_index(part, check.settings)
    lengths_fit = index is not None and check_index(part, index, check.settings, faults)
    if index and lengths_fit and check.hashes and check.merged:
        check_own_index(part, index, faults)
    compared = 0
    if part.bin_path.is_file() and part.bin_path.stat().st_size >= part.after_last_byte:
        if sizes_fit and (check.settings.seq_length or lengths_fit):
            compared = _check_tokens(check, index, faults)
        elif check.hashes:
            _compare_hash(part, sha256_of(part.bin_path, part.first_byte, part.shard.bin_bytes), faults)
    return Verdict(faults=faults.lines(), compared_tokens=compared)


def _sound_index(part: Part, settings: DatasetSettings) -> IndexFile | None:
    try:
        index = IndexFile.open(part.idx_path)
    except UserError:
        return None
    as_expected = (index.dtype, index.sequences) == (token_dtype(settings.vocab_size), part.file.sequences)
    return index if as_expected else None


def _check_tokens(check: ShardCheck, index: IndexFile | None, faults: Faults) -> int:
    """Read the shard once; returns how many tokens were compared with its twin."""
    part, settings = check.part, check.settings
    if settings.seq_length:
        lengths = equal_lengths(part.shard.sequences, settings.seq_length)
    else:
        assert index is not None, "documents are read by the lengths in their index"
        lengths = stored_lengths(part, index)
    digest = hashlib.sha256() if check.hashes else None
    scan = TokenScan(part, settings, faults)
    positions = PositionCheck(part, settings, faults) if settings.strategy in ("sequence", "document") else None
    twin = TwinCheck(part, check.standard, settings, faults) if check.standard else None
    for piece in read_pieces(part, lengths, token_dtype(settings.vocab_size), settings.pause_id, digest):
        scan.add(piece)
        if positions:
            positions.add(piece)
        if twin:
            twin.add(piece)
    scan.finish()
    if digest:
        _compare_hash(part, digest.hexdigest(), faults)
    return twin.compared if twin else 0


def _compare_hash(part: Part, found: str, faults: Faults) -> None:
    if found != part.shard.bin_sha256:
        faults.add(
            "bin hash",
            f"{part.label}: the SHA-256 of bytes {part.first_byte} to {part.after_last_byte} is not the manifest's; "
            "the content has changed",
        )
