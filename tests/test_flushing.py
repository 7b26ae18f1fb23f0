"""Files of a new folder are flushed while they are written, and the folder does not appear if that fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pause_megatron.atomic import new_folder, write_file
from pause_megatron.errors import UserError
from pause_megatron.flushing import flush_meanwhile


def flushed_descriptors(monkeypatch: pytest.MonkeyPatch, error: int = 0) -> list[Path]:
    """The files that are flushed from now on, with their names at that time; each flush fails with ``error``."""
    flushed = []

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        if error:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fsync)
    return flushed


def test_a_file_is_flushed_before_its_folder_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = flushed_descriptors(monkeypatch)
    with new_folder(tmp_path / "folder") as folder:
        with write_file(folder / "file") as file:
            file.write(b"content")
            flush = flush_meanwhile(file)
            assert flush is not None
            flush.result()
            assert [path.suffix for path in flushed] == [".tmp"]
            assert Path(file.name).read_bytes() == b"content"
        assert len(flushed) == 1  # the folder flushes it, not write_file
    assert [path.name for path in flushed[1:-2]] == ["file"]
    assert (tmp_path / "folder" / "file").read_bytes() == b"content"


def test_a_file_elsewhere_is_flushed_by_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = flushed_descriptors(monkeypatch)
    with write_file(tmp_path / "file") as file:
        assert flush_meanwhile(file) is None
    assert [path.suffix for path in flushed] == [".tmp", ""]  # the file, then its folder


def test_a_failed_flush_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = flushed_descriptors(monkeypatch, errno.ENOSPC)
    with pytest.raises(UserError), new_folder(tmp_path / "folder") as folder, write_file(folder / "file") as file:
        flush_meanwhile(file)
    assert len(flushed) == 1
    assert list(tmp_path.iterdir()) == []
