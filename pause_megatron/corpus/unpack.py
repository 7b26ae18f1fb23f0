"""Decompression of plain, gzip and Zstandard files in pieces of bounded size, with any number of members or frames.

First step of reading JSON lines. This module drives the decompressors itself instead of reading from a file object. It
can then yield everything before damage, and bound the memory of a small file with very large content.
"""

import zlib as standard_zlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import IO

import zstandard

from pause_megatron.errors import UserError
from pause_megatron.remote_files import open_input

try:  # 3 to 4 times as fast as zlib
    from isal import isal_zlib as zlib
except ImportError:  # isal has no wheel for some platforms
    zlib = standard_zlib  # type: ignore[misc]

_INFLATE_ERRORS: tuple[type[Exception], ...] = (standard_zlib.error, zlib.error)  # type: ignore[assignment]

READ_BYTES = 128 << 10
_ZSTD_STEP_BYTES = 1 << 10
"""Compressed bytes per call of Zstandard, which decompresses them at once: in the worst case, 4 bytes give 128 KiB."""
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WRAPPER = 31


class _DamagedError(Exception):
    """The compressed data cannot be read any further."""


class Unpacked:
    """Iterates over the content of a file in pieces of at most ``piece_bytes`` bytes, decompressed by its suffix.

    ``location`` is a path or an address. Iteration ends at the end of the file, or at damage (truncated data, a wrong
    checksum, or another format), which :attr:`damage` then describes; otherwise it is None.

    Raises :class:`UserError` if the system or the driver cannot open or read the file.
    """

    def __init__(self, location: str, piece_bytes: int) -> None:
        self._location = location
        self._piece_bytes = piece_bytes
        self.damage: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        unpack = {".gz": _gunzip, ".zst": _unpack_zstd}.get(PurePath(self._location).suffix, _plain)
        try:
            with open_input(self._location) as file:
                yield from unpack(file, self._piece_bytes)
        except _DamagedError as error:
            self.damage = str(error)
        except OSError as error:
            raise UserError(f"{self._location}: cannot be read: {error.strerror or error}") from error


def _plain(file: IO[bytes], piece_bytes: int) -> Iterator[bytes]:
    while data := file.read(piece_bytes):
        yield data


def _gunzip(file: IO[bytes], piece_bytes: int) -> Iterator[bytes]:
    """Decompress all members; zeros between members are padding of some tools."""
    member = None
    members = 0
    while data := file.read(READ_BYTES):
        while data or member:
            if member is None:  # a member begins
                data = data.lstrip(b"\0") if members else data
                if not data:
                    break
                data += file.read(len(_GZIP_MAGIC) - len(data)) if len(data) < len(_GZIP_MAGIC) else b""
                _check_magic(data, members)
                member = zlib.decompressobj(_GZIP_WRAPPER)
            try:
                piece = member.decompress(data, piece_bytes)
            except _INFLATE_ERRORS as error:
                raise _DamagedError(f"the gzip data is damaged, here or before ({error})") from error
            if piece:
                yield piece
            if member.eof:
                data, member, members = member.unused_data, None, members + 1
            else:
                data = member.unconsumed_tail
                if not data and len(piece) < piece_bytes:
                    break
    if member or not members:
        raise _DamagedError("the gzip data ends too early")


def _check_magic(data: bytes, members: int) -> None:
    if not data.startswith(_GZIP_MAGIC[: len(data)]):
        where = "Not a gzipped file" if not members else "other data follows the gzip data"
        raise _DamagedError(f"cannot be read: {where} ({data[:4]!r})")


def _unpack_zstd(file: IO[bytes], piece_bytes: int) -> Iterator[bytes]:
    """Decompress all frames; joins the small outputs of single steps to larger pieces."""
    unpacker = zstandard.ZstdDecompressor()
    frame = None
    frames = 0
    pieces: list[bytes] = []
    unpacked = 0
    try:
        while data := file.read(_ZSTD_STEP_BYTES):
            while data:
                frame = frame or unpacker.decompressobj()
                piece = frame.decompress(data)
                pieces.append(piece)
                unpacked += len(piece)
                data = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame, frames = None, frames + 1
            if unpacked >= piece_bytes:
                yield from _equal_pieces(pieces, piece_bytes)
                pieces, unpacked = [], 0
    except zstandard.ZstdError as error:
        yield from _equal_pieces(pieces, piece_bytes)
        raise _DamagedError(f"the Zstandard data cannot be unpacked ({error})") from error
    yield from _equal_pieces(pieces, piece_bytes)
    if frame or not frames:
        raise _DamagedError("the Zstandard data ends too early")


def _equal_pieces(pieces: list[bytes], piece_bytes: int) -> Iterator[bytes]:
    joined = b"".join(pieces)
    for start in range(0, len(joined), piece_bytes):
        yield joined[start : start + piece_bytes]
