"""Files at an address such as ``s3://bucket/text.json.gz``: lists, reads, uploads and removes them through fsspec.

fsspec has a driver for each scheme (``s3``, ``gs``, ``hf``, ``https``, ``memory``, ``file``). A driver takes
credentials and other settings from its own environment variables and files. fsspec is imported only for an address.
Whatever a driver raises becomes one line that names the address.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pause_megatron.errors import UserError, one_line

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")
_ADDRESS_AS_PATH = re.compile(r"([a-z][a-z0-9+.-]+):/(.*)", re.DOTALL)
"""``Path`` joins consecutive slashes: ``s3://bucket`` becomes ``s3:/bucket``."""
_LOCAL_SCHEMES = ("file", "local")
"""Schemes whose paths begin with a slash."""
_BUFFER_BYTES = 1 << 20
_MAGIC = re.compile(r"[*?[]")


def is_address(text: str) -> bool:
    """Whether ``text`` is an address for fsspec, and not a local path or ``hf:NAME``."""
    return bool(_ADDRESS.match(text))


def address_of(path: Path) -> str | None:
    """Return the address that ``path`` was made from, or None for a local path.

    A local folder with a name such as ``s3:`` in the current directory can be given by its absolute path.
    """
    found = _ADDRESS_AS_PATH.fullmatch(str(path))
    if not found:
        return None
    scheme, rest = found.groups()
    return f"{scheme}://{'/' * (scheme in _LOCAL_SCHEMES)}{rest}"


def find_files(pattern: str) -> list[tuple[str, int]]:
    """Return address and size in bytes (0 if unknown) of the files at the address or glob ``pattern``, sorted.

    Empty if there is none. Raises :class:`UserError` for a folder, an unknown scheme, and if the driver fails.
    """
    with _one_line_errors(pattern, "listed"):
        files, path = _open_filesystem(pattern)
        files.invalidate_cache()
        if _MAGIC.search(path):
            found = files.glob(path, detail=True)
        else:
            try:
                found = {path: files.info(path)}
            except FileNotFoundError as error:
                cause = error.__cause__
                if isinstance(cause, Exception) and not isinstance(cause, FileNotFoundError):
                    raise cause from error  # the driver for https reports so every failure of the network
                found = {}
    folders = [name for name, entry in found.items() if entry["type"] == "directory"]
    if folders and not _MAGIC.search(path):
        raise UserError(f"--input {pattern}: is a folder; give the files in it, e.g. '{pattern.rstrip('/')}/*.json.gz'")
    return sorted(
        (files.unstrip_protocol(name), int(entry.get("size") or 0))
        for name, entry in found.items()
        if name not in folders
    )


def open_input(location: str) -> IO[bytes]:
    """Open a local path or an address for reading.

    Raises ``OSError`` for a local file, and :class:`UserError` for an address, now and when reading fails.
    """
    return _buffered(location) if is_address(location) else open(location, "rb")


def _buffered(address: str) -> IO[bytes]:
    return io.BufferedReader(_RemoteFile(address), _BUFFER_BYTES)


class _RemoteFile(io.RawIOBase):
    """File at an address, whose reader must not mistake a failing network for the end of the file or for damage."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._file: Any = None
        with self._errors():
            files, path = _open_filesystem(address)
            self._file = files.open(path, "rb")

    def _errors(self) -> Any:
        return _one_line_errors(self._address, "read")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._errors():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if self._file is not None and not self.closed:
            with self._errors():
                self._file.close()
        super().close()


class RemoteStore:
    """Files of one folder at an address; its methods raise :class:`UserError` if the driver fails."""

    def __init__(self, address: str) -> None:
        self._given = address
        with _one_line_errors(address, "opened"):
            self._files, self._path = _open_filesystem(address.rstrip("/"))
            self.address = str(self._files.unstrip_protocol(self._path)).rstrip("/")

    def sizes(self) -> dict[str, int]:
        """Name to size in bytes of each file in the folder; empty if there is no folder."""
        with _one_line_errors(self._given, "listed"):
            self._files.invalidate_cache()
            try:
                entries = self._files.ls(self._path, detail=True)
            except FileNotFoundError:  # object stores have no empty folders
                return {}
        return {
            entry["name"].rstrip("/").rpartition("/")[2]: int(entry.get("size") or 0)
            for entry in entries
            if entry["type"] != "directory"
        }

    def read(self, name: str) -> bytes | None:
        """Return the content of the file ``name``, or None if there is none."""
        with _one_line_errors(f"{self.address}/{name}", "read"):
            try:
                return bytes(self._files.cat_file(f"{self._path}/{name}"))
            except FileNotFoundError:
                return None

    def upload(self, local: Path) -> None:
        """Copy the file ``local`` into the folder under its own name, replacing another, and compare the sizes."""
        place, size = f"{self.address}/{local.name}", local.stat().st_size
        with _one_line_errors(place, "written"):
            self._files.makedirs(self._path, exist_ok=True)
            self._files.put_file(str(local), f"{self._path}/{local.name}")
            self._files.invalidate_cache()
            found = self._files.info(f"{self._path}/{local.name}")["size"]
        if found != size:
            raise UserError(f"{place}: has {found} of {size} bytes after the upload; run the same command again")

    def remove(self, name: str) -> None:
        """Remove the file ``name``."""
        with _one_line_errors(f"{self.address}/{name}", "removed"):
            self._files.rm_file(f"{self._path}/{name}")


def _open_filesystem(address: str) -> tuple[Any, str]:
    """Return the driver for ``address``, and the path in its terms."""
    import fsspec.core

    files, path = fsspec.core.url_to_fs(address)
    return files, path


@contextmanager
def _one_line_errors(address: str, action: str) -> Iterator[None]:
    """Turn any error of a driver into a :class:`UserError`; drivers have their own kinds, also of other libraries."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{address}: its driver is missing ({one_line(error)}); install it with pip") from error
    except FileNotFoundError as error:
        raise UserError(f"{address}: no such file; check the address") from error
    except Exception as error:
        raise UserError(
            f"{address}: cannot be {action} ({type(error).__name__}: {one_line(error)}); check the address and your"
            " access to it, and run the same command again"
        ) from error
