"""Nothing half-written stands under a final name, whatever happens while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pause_megatron.atomic import new_folder, write_file, write_json, write_text
from pause_megatron.errors import UserError


class PulledPlugError(Exception):
    """What interrupts a write."""


def test_file_appears_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "file.json", {"path": Path("a"), "text": "ü"})
    assert (tmp_path / "deep" / "file.json").read_text(encoding="utf-8") == '{\n  "path": "a",\n  "text": "ü"\n}\n'


def test_what_json_cannot_say_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex is no JSON value"):
        write_json(tmp_path / "file.json", {"value": 1j})


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


def test_folder_appears_whole_and_is_never_overwritten(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder") as folder:
        assert not (tmp_path / "folder").exists()
        (folder / "file.txt").write_text("first")
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder" / "file.txt").read_text() == "first"
