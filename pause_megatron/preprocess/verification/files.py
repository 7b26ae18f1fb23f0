"""Checks of one pair of files as a whole: they are there, their sizes, the index's header and its hash."""

from __future__ import annotations

from pathlib import Path

from pause_megatron.errors import UserError
from pause_megatron.preprocess.indexed_reader import IndexFile
from pause_megatron.preprocess.indexed_writer import token_dtype
from pause_megatron.preprocess.manifest import DatasetSettings, StoredFile
from pause_megatron.preprocess.pieces import sha256_of
from pause_megatron.preprocess.verification.faults import Faults, Verdict


def check_file(folder: Path, file: StoredFile, settings: DatasetSettings, hashes: bool) -> Verdict:
    """Check the pair of files ``file`` in ``folder``, but nothing of their shards' content."""
    faults = Faults()
    for suffix, size in ((".bin", file.bin_bytes), (".idx", file.idx_bytes)):
        path = folder / (file.name + suffix)
        if not path.is_file():
            faults.add(f"{suffix} missing", f"{path}: missing, though the manifest lists it")
        else:
            faults.expect(f"{suffix} size", f"{path}: size in bytes is", path.stat().st_size, size)
    idx_path = folder / f"{file.name}.idx"
    if idx_path.is_file() and idx_path.stat().st_size == file.idx_bytes:
        _check_header(idx_path, file, settings, faults)
        if hashes and sha256_of(idx_path, 0, file.idx_bytes) != file.idx_sha256:
            faults.add("idx hash", f"{idx_path}: its SHA-256 is not the manifest's; its content has changed")
    return Verdict(faults=faults.lines())


def _check_header(path: Path, file: StoredFile, settings: DatasetSettings, faults: Faults) -> None:
    try:
        index = IndexFile.open(path)
    except UserError as error:
        faults.add("header", str(error))
        return
    faults.expect("dtype", f"{path}: token dtype at byte 17 is", index.dtype, token_dtype(settings.vocab_size))
    faults.expect("sequences", f"{path}: number of sequences at byte 18 is", index.sequences, file.sequences)
