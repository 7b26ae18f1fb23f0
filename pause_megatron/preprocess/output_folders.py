"""Folders that preprocessing writes shards to: local ones, and remote ones to which complete shards are uploaded.

Both keep the same promise: a shard whose record ``NAME.json`` is complete has complete files. In a local folder the
record gets its name last. For a remote folder, such as ``s3://bucket/data``, a shard is written to a local temporary
folder, and then its files are uploaded, the record last. Stores of objects show an object only when it is complete; of
the others, a record that was cut off is no JSON, and counts as missing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pause_megatron import log
from pause_megatron.atomic import scratch_folder, sweep
from pause_megatron.children import available_cores
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import (
    DATASET_FILE,
    DatasetManifest,
    ShardManifest,
    ShardRecord,
    StoredFile,
    check_stored_file,
    read_dataset_manifest,
    write_dataset_manifest,
)
from pause_megatron.preprocess.progress_log import PROGRESS_FOLDER
from pause_megatron.preprocess.token_blocks import sha256_of
from pause_megatron.records.files import parse_json, read_record, record_of
from pause_megatron.remote_files import RemoteStore, address_of

_LARGE_BYTES = 10_000_000_000  # announce hashing of more than this, because it takes seconds
_TRANSFERS = 16  # records read at the same time
_SHARD_SUFFIXES = (".bin", ".idx", ".json")  # the record last


class OutputFolder(ABC):
    """Folder of one dataset."""

    def __init__(self, place: str, local: Path) -> None:
        self.place = place
        """Path or address, for messages."""
        self._local = local
        """Local folder with the temporary files of shards that are being written, and the progress logs."""

    @property
    def progress(self) -> Path:
        """Local folder of the progress logs."""
        return self._local / PROGRESS_FOLDER

    @abstractmethod
    def contains_any(self, locations: Iterable[str]) -> bool:
        """Whether one of the inputs at ``locations`` is directly in this folder."""

    @abstractmethod
    def shard_names(self) -> list[str]:
        """Names of all shards with a record, complete or cut off."""

    def read_record(self, name: str) -> ShardRecord | None:
        """Return the record of a shard, or None if it is not complete. Raises :class:`UserError` if it is damaged."""
        return next(self._read_each([name]))

    @abstractmethod
    def _read_each(self, names: Sequence[str]) -> Iterator[ShardRecord | None]:
        """Yield what :meth:`read_record` returns for each name."""

    @abstractmethod
    def is_merged(self) -> bool:
        """Whether this is a complete dataset whose shards are merged."""

    def read_records(self) -> dict[str, ShardRecord]:
        """Return the records of the complete shards by name. Raises :class:`UserError` for a merged dataset."""
        if self.is_merged():
            raise UserError(f"{self.place}: is a merged dataset, to which nothing can be added; give another --output")
        names = self.shard_names()
        found = zip(names, self._read_each(names), strict=True)
        records = {name: record for name, record in found if record is not None}
        for name, record in records.items():
            if record.shard.name != name:
                place = f"{self.place}/{name}.json"
                raise UserError(f"{place}: describes the shard {record.shard.name!r}; remove it and preprocess again")
        return records

    @abstractmethod
    def check_files(self, shards: Sequence[ShardManifest]) -> None:
        """Raise :class:`UserError` unless the files of complete ``shards`` are here with the sizes of their records."""

    @abstractmethod
    def check_content(self, shards: Sequence[ShardManifest]) -> None:
        """Raise :class:`UserError` if a file of one of the complete ``shards`` is not as it was written."""

    def sweep(self, names: set[str]) -> None:
        """Remove temporary files of killed runs. Raise :class:`UserError` if another run writes one of ``names``."""
        for path in sweep(self._local):
            name = path.name.removeprefix(".").rsplit(".", 3)[0]  # .NAME.bin.1234abcd.tmp
            if name in names:
                raise UserError(
                    f"{self.place}: another run is writing shard {name}; wait for it, or give each run its own "
                    "--shard-range"
                )

    @abstractmethod
    def new_shard(self, name: str) -> AbstractContextManager[Path]:
        """Context with the folder to write the files of the shard ``name`` to, the record last."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """Remove the record of a shard, and that of the dataset, before the shard is written again."""

    @abstractmethod
    def write_manifest(self, manifest: DatasetManifest) -> None:
        """Write ``dataset.json``."""


def output_folder(path: Path) -> OutputFolder:
    """Return the folder at ``path``, which may have been made from an address."""
    address = address_of(path)
    return RemoteFolder(address) if address else LocalFolder(path)


class LocalFolder(OutputFolder):
    """Folder on this machine, or on a shared disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path)

    def contains_any(self, locations: Iterable[str]) -> bool:
        """Whether one of the files is in this folder, also through a link."""
        parents = {Path(location).parent for location in locations}
        return self._local.resolve() in {parent.resolve() for parent in parents}

    def shard_names(self) -> list[str]:
        """Names of the records."""
        return sorted(path.stem for path in self._local.glob("*.json") if path.name != DATASET_FILE)

    def _read_each(self, names: Sequence[str]) -> Iterator[ShardRecord | None]:
        for path in (self._local / f"{name}.json" for name in names):
            yield read_record(path, ShardRecord) if path.exists() else None

    def is_merged(self) -> bool:
        """Whether ``dataset.json`` lists merged files."""
        return (self._local / DATASET_FILE).is_file() and bool(read_dataset_manifest(self._local).merged)

    def check_files(self, shards: Sequence[ShardManifest]) -> None:
        """Compare the sizes."""
        for shard in shards:
            check_stored_file(self._local, StoredFile.of(shard, (shard,)))

    def check_content(self, shards: Sequence[ShardManifest]) -> None:
        """Compare the hashes: a crash of the machine can leave a file of the right size that ends with zeros."""
        files = [(self._local / f"{shard.name}.bin", shard.bin_bytes, shard.bin_sha256) for shard in shards]
        files += [(self._local / f"{shard.name}.idx", shard.idx_bytes, shard.idx_sha256) for shard in shards]
        size = sum(size for _, size, _ in files)
        if size > _LARGE_BYTES:
            log.info(f"{self.place}: comparing {len(shards)} complete shards with their hashes, {size / 1e9:.0f} GB")
        with ThreadPoolExecutor(available_cores()) as threads:  # hashing releases the interpreter lock
            hashes = threads.map(lambda file: sha256_of(file[0], 0, file[1]), files)
            for (path, _, written), found in zip(files, hashes, strict=True):
                if found != written:
                    threads.shutdown(cancel_futures=True)
                    raise UserError(
                        f"{path}: its SHA-256 is not that in {path.stem}.json; remove {path.stem}.* and preprocess "
                        "again"
                    )

    @contextmanager
    def new_shard(self, name: str) -> Iterator[Path]:
        """Yield this folder: each file is written under a temporary name and renamed."""
        yield self._local

    def forget(self, name: str) -> None:
        """Remove the two records, if they exist."""
        for record in (DATASET_FILE, f"{name}.json"):
            (self._local / record).unlink(missing_ok=True)

    def write_manifest(self, manifest: DatasetManifest) -> None:
        """Write ``dataset.json`` in place."""
        write_dataset_manifest(self._local, manifest)


class RemoteFolder(OutputFolder):
    """Folder at an address for fsspec. Temporary files are in the folder for temporary files, see ``TMPDIR``."""

    def __init__(self, address: str) -> None:
        self._store = RemoteStore(address)
        own = f"pause-megatron-{os.getuid()}"
        digest = hashlib.sha256(self._store.address.encode()).hexdigest()[:16]
        super().__init__(self._store.address, Path(tempfile.gettempdir(), own, digest))

    def contains_any(self, locations: Iterable[str]) -> bool:
        """Whether one of the addresses is in this folder."""
        return any(location.rpartition("/")[0] == self.place for location in locations)

    def shard_names(self) -> list[str]:
        """Names of the records."""
        return _record_names(self._store.sizes())

    def _read_each(self, names: Sequence[str]) -> Iterator[ShardRecord | None]:
        """Read records; one that is not JSON was cut off when a run was killed."""
        with ThreadPoolExecutor(_TRANSFERS) as threads:
            contents = list(threads.map(self._store.read, [f"{name}.json" for name in names]))
        for name, content in zip(names, contents, strict=True):  # not in the threads: msgspec crashes in several
            yield None if content is None else _complete_record(content, f"{self.place}/{name}.json")

    def is_merged(self) -> bool:
        """Whether ``dataset.json`` lists merged files."""
        content = self._store.read(DATASET_FILE)
        try:
            values = parse_json(content or b"{}", f"{self.place}/{DATASET_FILE}")
        except UserError:  # cut off; this run writes it again
            return False
        return isinstance(values, dict) and bool(values.get("merged"))

    def check_files(self, shards: Sequence[ShardManifest]) -> None:
        """Compare the sizes that the store reports."""
        sizes = self._store.sizes() if shards else {}
        for shard in shards:
            for suffix, size in ((".bin", shard.bin_bytes), (".idx", shard.idx_bytes)):
                if (found := sizes.get(shard.name + suffix)) != size:
                    state = "missing" if found is None else f"has {found} bytes instead of the {size} in its record"
                    raise UserError(
                        f"{self.place}/{shard.name}{suffix}: {state}; remove {shard.name}.json and preprocess again"
                    )

    def check_content(self, shards: Sequence[ShardManifest]) -> None:
        """Compare nothing: it would download the dataset, and stores keep hashes of their own."""

    @contextmanager
    def new_shard(self, name: str) -> Iterator[Path]:
        """Yield a temporary folder, and upload its files at the end of the block."""
        with self._scratch(f"{name}.bin") as folder:
            yield folder
            for suffix in _SHARD_SUFFIXES:
                self._store.upload(folder / f"{name}{suffix}")

    def forget(self, name: str) -> None:
        """Remove the two records, if they exist."""
        sizes = self._store.sizes()
        for record in (DATASET_FILE, f"{name}.json"):
            if record in sizes:
                self._store.remove(record)

    def write_manifest(self, manifest: DatasetManifest) -> None:
        """Write ``dataset.json`` locally, and upload it."""
        with self._scratch(DATASET_FILE) as folder:
            write_dataset_manifest(folder, manifest)
            self._store.upload(folder / DATASET_FILE)

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        root = self._local.parent
        root.mkdir(mode=0o700, exist_ok=True)
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            raise UserError(f"{root}: belongs to another user; set TMPDIR to a folder of your own")
        with scratch_folder(self._local / name) as folder:
            yield folder


def _record_names(sizes: dict[str, int]) -> list[str]:
    return sorted(name.removesuffix(".json") for name in sizes if name.endswith(".json") and name != DATASET_FILE)


def _complete_record(content: bytes, place: str) -> ShardRecord | None:
    try:
        values = parse_json(content, place)
    except UserError as error:
        log.warn(f"{error}: the shard is written again")
        return None
    return record_of(values, place, ShardRecord)
