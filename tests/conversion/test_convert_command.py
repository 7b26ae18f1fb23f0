"""`tools/convert_to_hf.py` refuses an incomplete checkpoint with one line, and leaves no folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.checkpoint.checkpoint_manifest import FileChecksum, Manifest
from pause_megatron.cli.commands import TOOLS
from pause_megatron.cli.main import run_command
from pause_megatron.errors import EXIT_USER


def convert(checkpoint: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the tool, which must fail with a user error; returns its only line."""
    flags = ["--checkpoint", str(checkpoint), "--output", str(output)]
    assert run_command(TOOLS["convert_to_hf.py"], "convert_to_hf.py", flags) == EXIT_USER
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_wrong_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = convert(tmp_path / "nowhere", tmp_path / "hf", capsys)
    assert line == f"error: --checkpoint {tmp_path / 'nowhere'}: no such folder; give a run folder"


def test_half_written_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "run" / "checkpoints" / ".iter_0000100.0a1b2c3d.tmp"
    torn.mkdir(parents=True)
    (torn / "rank00000.safetensors").write_bytes(b"torn")
    assert "half-written" in convert(torn, tmp_path / "hf", capsys)
    assert "holds no complete checkpoint" in convert(tmp_path / "run", tmp_path / "hf", capsys)


def test_missing_rank_file_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"rank00000.safetensors": FileChecksum(bytes=4, crc32=1)}
    manifest = Manifest(state={}, optimizer={}, files=files, parameters={}, fragments=[])
    checkpoint = tmp_path / "iter_0000100"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest.to_plain()))
    assert "rank00000.safetensors: missing" in convert(checkpoint, tmp_path / "hf", capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["iter_0000100"]


def test_existing_output_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, output = tmp_path / "iter_0000100", tmp_path / "hf"
    checkpoint.mkdir()
    output.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    assert "exists already" in convert(checkpoint, output, capsys)


@pytest.mark.parametrize(("wish", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_openmp_leaves_the_cores_to_other_threads(wish: dict[str, str], policy: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pause_megatron", "convert-to-hf", "--checkpoint", "no", "--output", "hf"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    environment |= {"OMP_DISPLAY_ENV": "true", **wish}  # each copy of the library prints its settings
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = {line.strip() for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line}
    assert lines == {f"OMP_WAIT_POLICY = '{policy}'"}, done.stderr
