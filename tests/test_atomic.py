"""A final name never has incomplete content, even if the writer fails or is killed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from pause_megatron import atomic
from pause_megatron.atomic import (
    final_name,
    new_folder,
    reserved,
    sweep,
    temporary_name,
    write_file,
    write_json,
    write_text,
)
from pause_megatron.errors import UserError
from tests.disk import small_disk


class PulledPlugError(Exception):
    """An error in the middle of a write."""


def test_file_appears_complete(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "file.json", {"path": Path("a"), "text": "ü"})
    assert (tmp_path / "deep" / "file.json").read_text(encoding="utf-8") == '{\n  "path": "a",\n  "text": "ü"\n}\n'


def test_a_value_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex cannot be written as JSON"):
        write_json(tmp_path / "file.json", {"value": 1j})


def test_final_name_of_a_temporary_one() -> None:
    for name in ("a.json", ".lock", "a.b.tmp", ".tmp", "x"):
        assert final_name(temporary_name(Path(name)).name) == name
        assert final_name(name) == name


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json: cannot hold '.*b\\udcff.*, which is not UTF-8; rename that file"):
        write_json(tmp_path / "a.json", {"path": Path(os.fsdecode(b"b\xff"))})
    assert not list(tmp_path.iterdir())


def test_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(PulledPlugError), write_file(path, "w") as file:
        file.write("new")
        raise PulledPlugError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PulledPlugError), new_folder(tmp_path / "folder") as folder:
        (folder / "file.txt").write_text("new")
        raise PulledPlugError
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_complete_and_is_never_overwritten(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder") as folder:
        assert not (tmp_path / "folder").exists()
        (folder / "file.txt").write_text("first")
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder" / "file.txt").read_text() == "first"


WRITES_SLOWLY = """
import sys, time
from pathlib import Path
from pause_megatron.atomic import write_file
with write_file(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(100)
"""


def test_sweep_keeps_files_that_are_being_written(tmp_path: Path) -> None:
    temporary_name(tmp_path / "left by a killed run").touch()
    temporary_name(tmp_path / "left with files").mkdir()
    (next(tmp_path.glob(".left with files*")) / "file").touch()
    command = [sys.executable, "-c", WRITES_SLOWLY, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        (alive,) = sweep(tmp_path)
        assert alive.name.startswith(".file.")
        assert list(tmp_path.iterdir()) == [alive]
        writer.kill()
    assert sweep(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_user_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here; a full disk was not checked")
    with (
        pytest.raises(UserError, match="No space left on device; free disk space"),
        write_file(tmp_path / "file"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_under_a_library_is_a_user_error(tmp_path: Path) -> None:
    """Libraries in Rust have errors of their own: safetensors, and tokenizers, which raises a plain Exception."""
    tokenizer = Tokenizer(models.WordLevel({f"word {number}": number for number in range(10_000)}, unk_token="word 0"))
    weights = {"weights": np.zeros(100_000, dtype=np.float32)}
    for save in (lambda path: tokenizer.save(str(path)), lambda path: save_file(weights, path)):
        with small_disk(tmp_path / "disk", "16k"):
            with (
                pytest.raises(UserError, match=r"export: No space left on device; free disk space"),
                new_folder(tmp_path / "disk" / "export") as folder,
            ):
                save(folder / "file")
            assert list((tmp_path / "disk").iterdir()) == []
        (tmp_path / "disk").rmdir()


def test_sweep_keeps_folders_in_use_and_other_names(tmp_path: Path) -> None:
    temporary_name(tmp_path / "folder").mkdir()
    other = temporary_name(tmp_path / "folder2")
    other.mkdir()
    with new_folder(tmp_path / "folder") as folder:
        assert sweep(tmp_path, "folder") == [folder]
        assert sorted(tmp_path.iterdir()) == sorted([folder, other])
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "folder"]


@pytest.mark.parametrize("create", [new_folder, write_file])
def test_a_sweep_before_the_lock_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: Callable[[Path], AbstractContextManager[object]]
) -> None:
    lock, swept = atomic._lock, []

    def sweep_first(descriptor: int) -> None:
        if not swept:  # as another process does between the creation and the lock
            swept.extend(tmp_path.iterdir())
            assert sweep(tmp_path) == []
        lock(descriptor)

    monkeypatch.setattr(atomic, "_lock", sweep_first)
    with create(tmp_path / "output"):
        pass
    assert len(swept) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "output"]


def test_a_new_file_waits_for_a_sweep_that_has_found_it(tmp_path: Path) -> None:
    path = temporary_name(tmp_path / "file")
    with open(path, "wb") as new, open(path, "rb") as found, ThreadPoolExecutor() as pool:
        fcntl.flock(found, fcntl.LOCK_EX)
        locking = pool.submit(atomic._lock, new.fileno())
        with pytest.raises(TimeoutError):
            locking.result(timeout=0.2)
        fcntl.flock(found, fcntl.LOCK_UN)
        locking.result(timeout=30)


def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path: Path) -> None:
    left, other = temporary_name(tmp_path / "folder"), temporary_name(tmp_path / "another")
    for path in (left, other):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"large")
    with new_folder(tmp_path / "folder"):
        assert not left.exists()
    assert other.exists()


def test_only_one_of_two_writers_gets_a_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder") as first:
        with pytest.raises(UserError, match="another process is writing it, in "), new_folder(tmp_path / "folder"):
            pass
        (first / "file").write_text("first")
        with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "folder", alone=False) as second:
            (second / "file").write_text("second")
            first.rename(tmp_path / "folder")  # the other was faster
        (tmp_path / "folder").rename(first)
    assert (tmp_path / "folder" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_reserved_file_can_be_written_by_its_owner_only(tmp_path: Path) -> None:
    left = temporary_name(tmp_path / "file.json")
    left.touch()
    with reserved(tmp_path / "file.json"):
        assert not left.exists()
        with pytest.raises(UserError, match="another process is writing it, in "), reserved(tmp_path / "file.json"):
            pass
        with reserved(tmp_path / "other.json"):
            write_text(tmp_path / "file.json", "mine")
    with reserved(tmp_path / "file.json"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_of_a_folder_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "folder") as folder:
            (folder / "part").mkdir()
            for file in (folder / "weights", folder / "part" / "weights"):
                file.touch(mode=0o600)
    finally:
        os.umask(before)
    for file in ("weights", "part/weights"):
        assert (tmp_path / "folder" / file).stat().st_mode & 0o777 == mode
