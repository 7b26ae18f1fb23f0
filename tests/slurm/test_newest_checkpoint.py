"""The job script finds the newest checkpoint, by which it decides whether a requeued run makes progress."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name

LIBRARY = Path(__file__).parents[2] / "slurm" / "lib.sh"


def newest_checkpoint(run: Path) -> str:
    program = 'script=$1; . "$1"; folder=$2; newest_checkpoint'
    command = ["bash", "-euo", "pipefail", "-c", program, "bash", LIBRARY, run]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_newest_checkpoint_is_the_latest_complete_name(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == "none"
    (tmp_path / CHECKPOINTS).mkdir()
    assert newest_checkpoint(tmp_path) == "none"
    names = [checkpoint_name(iteration) for iteration in (900, 20_000_000, 1000)]
    for name in (*names, f"{checkpoint_name(30_000_000)}.damaged", f".{checkpoint_name(40_000_000)}.0a1b2c3d.tmp"):
        (tmp_path / CHECKPOINTS / name).mkdir()
    assert newest_checkpoint(tmp_path) == checkpoint_name(20_000_000)
