"""SHA-256 of a model folder's files: recorded when the folder is written, compared when it is loaded."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pause_megatron.errors import UserError
from pause_megatron.records.files import path_beside


def checksums(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the SHA-256, in hexadecimal, of every file in ``folder`` by its name; not of those in subfolders.

    Files whose checksum is ``known`` are not read.
    """
    known = known or {}
    return {path.name: known.get(path.name) or _sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}


def compare_checksums(folder: Path, recorded: Mapping[str, str], record: str) -> None:
    """Compare the files of ``folder`` with the checksums that the file ``record`` in it has of them.

    A process reads each file once, unless it changes. Files that are not recorded are not compared.

    Raises :class:`UserError` for the first file that is missing, cannot be read or differs, and for a name in
    ``recorded`` that is a path.
    """
    for name, digest in recorded.items():
        path = path_beside(folder / record, name)
        try:
            found = checksum_once(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; copy or make the model again") from error
        if found != digest:
            raise UserError(
                f"{path}: damaged or changed, because its SHA-256 is not the one in {record}; copy or make the model"
                " again (if you changed the file yourself, remove its line there)"
            )


def refuse_unrecorded(folder: Path, recorded: Mapping[str, str], record: str, names: Iterable[str]) -> None:
    """Raise :class:`UserError` if one of the files ``names`` is in ``folder``, but not among the ``recorded`` ones."""
    for name in names:
        if name not in recorded and (folder / name).exists():
            raise UserError(
                f"{folder / name}: is not among the files in {record}, and would change the model; remove it, or copy"
                " or make the model again"
            )


def checksum_once(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. A process reads each file once, unless it changes."""
    status = path.stat()
    return _sha256_once(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@cache
def _sha256_once(path: Path, *_: int) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
