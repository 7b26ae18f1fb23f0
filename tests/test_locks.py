"""A folder has one owner, the error names it, and its lock is released when it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.errors import UserError
from pause_megatron.locks import LOCK_FILE, sole_owner

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from pause_megatron.locks import sole_owner
with sole_owner(Path(sys.argv[1]), refusal="", owner="Slurm job 12, restart 1"):
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_owner_and_not_with_a_program_it_started(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())
        refusal = rf"taken \(.*, pid {holder.pid}, Slurm job 12, restart 1\)"
        with pytest.raises(UserError, match=refusal), sole_owner(tmp_path, refusal="taken", patience=lambda _: 0.3):
            pass
        holder.kill()
        with sole_owner(tmp_path, refusal="taken", patience=lambda _: 20.0) as is_locked:
            assert is_locked
            assert (tmp_path / LOCK_FILE).read_text().endswith(f"pid {os.getpid()}")
        os.kill(child, 0)  # still there
        os.kill(child, 9)


def test_patience_depends_on_the_other(tmp_path: Path) -> None:
    heard = []

    def patience(other: str) -> float:
        heard.append(other)
        return 0.0

    with (
        sole_owner(tmp_path, refusal="", owner="me"),
        pytest.raises(UserError, match="no"),
        sole_owner(tmp_path, refusal="no", patience=patience),
    ):
        pass
    assert heard
    assert heard[0].endswith(f"pid {os.getpid()}, me")
    with sole_owner(tmp_path, refusal="no"):
        pass
