"""A file's unpacked content in pieces of bounded size: plain, gzip or Zstandard, of any number of members or frames.

First step of reading JSON lines. Unpacking is driven from here, not by a file object, so that all that can be unpacked
before a cut is handed on, and so that a small file which unpacks to very much never does so at once.
"""

from __future__ import annotations

import zlib as standard_zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from pause_megatron.errors import UserError

try:  # Intel's inflate is 3 to 4 times as fast as the standard library's
    from isal import isal_zlib as zlib
except ImportError:  # isal has no wheel for some platforms
    zlib = standard_zlib  # type: ignore[misc]

_INFLATE_ERRORS: tuple[type[Exception], ...] = (standard_zlib.error, zlib.error)  # type: ignore[assignment]

READ_BYTES = 128 << 10
_ZSTD_STEP_BYTES = 1 << 10
"""Packed bytes given to Zstandard at a time: it unpacks them all at once, four of them to 128 KiB at the worst."""
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WRAPPER = 31


class _DamagedError(Exception):
    """The packed data cannot be unpacked any further."""


class Unpacked:
    """Iterates over the content of ``path`` in pieces of at most ``piece_bytes`` bytes.

    The suffix (``.gz``, ``.zst``) says how to unpack it.

    Iteration ends at damage (packed data that is cut short, fails its checksum or is of another kind) as it does at the
    end of the file, and :attr:`damage` then says what is wrong; until then it is None.

    Raises :class:`UserError` when the file cannot be opened, or the system cannot read it: repeating the run may help.
    """

    def __init__(self, path: Path, piece_bytes: int) -> None:
        self._path = path
        self._piece_bytes = piece_bytes
        self.damage: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        unpack = {".gz": _gunzip, ".zst": _unpack_zstd}.get(self._path.suffix, _plain)
        try:
            with open(self._path, "rb") as file:
                yield from unpack(file, self._piece_bytes)
        except _DamagedError as error:
            self.damage = str(error)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read: {error.strerror or error}") from error


def _plain(file: IO[bytes], piece_bytes: int) -> Iterator[bytes]:
    while data := file.read(piece_bytes):
        yield data


def _gunzip(file: IO[bytes], piece_bytes: int) -> Iterator[bytes]:
    """Members one after the other, with the zeros that some tapes and tools pad them with."""
    member = None
    members = 0
    while data := file.read(READ_BYTES):
        while data or member:
            if member is None:
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
        where = "Not a gzipped file" if not members else "something else follows the gzip data"
        raise _DamagedError(f"cannot be read: {where} ({data[:4]!r})")


def _unpack_zstd(file: IO[bytes], piece_bytes: int) -> Iterator[bytes]:
    """Frames one after the other; pieces are strung together since each step gives little."""
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
