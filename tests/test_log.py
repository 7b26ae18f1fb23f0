"""A run continues, and ends with its own exit code, when nobody can read its output any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pause_megatron.log
from pause_megatron.errors import EXIT_DONE, EXIT_REQUEUE, EXIT_USER

PROGRAM = """
import contextlib, os, subprocess, sys
from pause_megatron import log
log.keep_output_from_failing()
os.read(0, 1)  # until the readers have left
with open("file", "wb") as file:
    for number in range(3):
        log.write_line(f"line {number}")
        print(number, flush=True)
    with contextlib.suppress(OSError):
        os.write(2, b"a library\\n")
    child = subprocess.run([sys.executable, "-c", "import os; os.fstat(0), os.fstat(1), os.fstat(2)"])
open("done", "w").write(f"{os.path.getsize('file')} bytes in the file, child {child.returncode}")
raise SystemExit(85)
"""


@pytest.mark.parametrize(
    ("redirections", "closed"),
    [
        ("", ("stderr",)),
        ("", ("stdout",)),
        ("2>&1", ("stdout",)),  # as in: command 2>&1 | head
        (">&- 2>&- <&-", ()),
        ("2>/dev/full", ()),
    ],
)
def test_output_without_a_reader_does_not_end_a_run(tmp_path: Path, redirections: str, closed: tuple[str, ...]) -> None:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = f'exec "$0" -c "$1" {redirections}'
    child = subprocess.Popen(["sh", "-c", command, sys.executable, PROGRAM], cwd=tmp_path, text=True, **pipes)
    for name in closed:
        getattr(child, name).close()
        setattr(child, name, None)
    child.communicate("" if "<&-" in redirections else "\n", timeout=60)
    assert child.returncode == EXIT_REQUEUE
    assert (tmp_path / "done").read_text() == "0 bytes in the file, child 0"


def test_log_continues_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    """Log lines are dropped while the disk is full; later ones are written."""
    program = (
        "import os, sys; from pause_megatron import log; log.keep_output_from_failing(); log.write_line('lost')\n"
        "os.dup2(os.open('log', os.O_CREAT | os.O_WRONLY), 2); log.write_line('written')"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>/dev/full', sys.executable, program]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == EXIT_DONE
    assert (tmp_path / "log").read_text() == "written\n"


def test_results_that_do_not_fit_on_the_disk_are_an_error() -> None:
    """Standard output holds results, for example of ``generate``: unlike log lines, they must not be lost silently."""
    command = [sys.executable, "-m", "tests.cli.printing"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >/dev/full', "sh", *command], stderr=subprocess.PIPE, text=True, check=False
    )
    line = "error: a file: No space left on device; free disk space and run the same command again\n"
    assert (done.returncode, done.stderr) == (EXIT_USER, line)


@pytest.mark.parametrize("value", ["", " ", "abc", "1.5"])
def test_malformed_rank_does_not_hide_the_line_that_reports_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RANK", value)
    assert pause_megatron.log.global_rank() == 0
