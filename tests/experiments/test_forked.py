"""A forked command is like a started one: its arguments, its log, its exit code, and its end with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.test_children import is_running

COMMAND = """
import os, sys, time
from pause_megatron import log
from pause_megatron.children import end_with_parent
end_with_parent()
print("arguments", sys.argv[1:], flush=True)
log.info("started")
if sys.argv[1] == "sleep":
    time.sleep(60)
raise SystemExit(int(sys.argv[1]))
"""
PARENT = """
import os, sys, time
from pathlib import Path
from pause_megatron.experiments import forked
forked._LIBRARIES = ()
time.sleep(0.3)
commands = forked.ForkedCommands(threads=1)
pid = commands.start(["-m", "a_command", *sys.argv[1:]], Path("logs/command.log"))
print(pid, flush=True)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def start_parent(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "a_command.py").write_text(COMMAND)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    command = [sys.executable, "-c", PARENT, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def test_fork_has_its_own_arguments_log_clock_and_exit_code(tmp_path: Path) -> None:
    parent = start_parent(tmp_path, "7", "--flag")
    output, _ = parent.communicate(timeout=60)
    assert output.splitlines()[1:] == ["7"]
    log = (tmp_path / "logs" / "command.log").read_text().splitlines()
    assert log == ["arguments ['7', '--flag']", "[    0.0s] started"]


def test_fork_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = start_parent(tmp_path, "sleep")
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.5)
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
