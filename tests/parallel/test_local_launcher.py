"""The local launcher forwards signals, waits for the processes to save, and names a process that failed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pause_megatron.errors import EXIT_DONE, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_LOST_PROCESS, EXIT_REQUEUE, EXIT_USER

LAUNCHER = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
from pause_megatron import log
from pause_megatron.parallel.local_launcher import run_local_processes
log.keep_output_from_failing()
sys.exit(run_local_processes(sys.argv[2:], int(sys.argv[1]), program=(sys.executable, "-c")))
"""
SAVES_ON_REQUEST = """
import os, time
from pathlib import Path
from pause_megatron.children import end_with_parent
from pause_megatron.training.stop_requests import StopRequests
end_with_parent()
rank = os.environ["RANK"]
with StopRequests(0) as stop:
    Path("running." + rank).touch()
    while not stop.request:
        time.sleep(0.01)
    Path("requested." + rank).write_text(stop.request.name)
    time.sleep({saving})
    Path("saved." + rank).touch()
    os._exit(85)
"""


@contextmanager
def launched(folder: Path, program: str, count: int = 2) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(count), program],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def run(folder: Path, program: str, count: int = 2) -> tuple[int, str]:
    with launched(folder, program, count) as launcher:
        _, stderr = launcher.communicate(timeout=60)
        return launcher.returncode, stderr


@pytest.mark.parametrize(
    ("number", "received"),
    [("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGUSR1"), ("SIGHUP", "SIGHUP"), ("SIGINT", "SIGTERM")],
)
def test_signal_is_forwarded_and_the_launcher_waits_until_all_have_saved(
    tmp_path: Path, number: str, received: str
) -> None:
    with launched(tmp_path, SAVES_ON_REQUEST.format(saving=0.5)) as launcher:
        for rank in range(2):
            wait_for(tmp_path / f"running.{rank}")
        launcher.send_signal(signal.Signals[number])
        for rank in range(2):
            wait_for(tmp_path / f"requested.{rank}")
        launcher.terminate()  # again, while they save
        _, stderr = launcher.communicate(timeout=60)
        assert (launcher.returncode, stderr) == (EXIT_REQUEUE, "")
    for rank in range(2):
        assert (tmp_path / f"requested.{rank}").read_text() == received
        assert (tmp_path / f"saved.{rank}").exists()


def test_ctrl_c_sent_to_the_terminal_group_counts_as_one_request(tmp_path: Path) -> None:
    with launched(tmp_path, SAVES_ON_REQUEST.format(saving=1)) as launcher:
        for rank in range(2):
            wait_for(tmp_path / f"running.{rank}")
        os.killpg(launcher.pid, signal.SIGINT)
        _, stderr = launcher.communicate(timeout=60)
        assert (launcher.returncode, stderr) == (EXIT_REQUEUE, "")
    for rank in range(2):
        assert (tmp_path / f"requested.{rank}").read_text() == "SIGINT"
        assert (tmp_path / f"saved.{rank}").exists()


def test_signal_during_startup_is_not_lost(tmp_path: Path) -> None:
    starting = "import pathlib, time; pathlib.Path('starting').touch(); time.sleep(1)\n"
    with launched(tmp_path, starting + SAVES_ON_REQUEST.format(saving=0), count=1) as launcher:
        wait_for(tmp_path / "starting")
        launcher.terminate()
        _, stderr = launcher.communicate(timeout=60)
        assert (launcher.returncode, stderr) == (EXIT_REQUEUE, "")
    assert (tmp_path / "saved.0").exists()


def test_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    with launched(tmp_path, SAVES_ON_REQUEST.format(saving=60)) as launcher:
        for rank in range(2):
            wait_for(tmp_path / f"running.{rank}")
        launcher.send_signal(signal.SIGINT)
        for rank in range(2):
            wait_for(tmp_path / f"requested.{rank}")
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=30)
        assert launcher.returncode == EXIT_INTERRUPTED


@pytest.mark.usefixtures("needs_terminals")
def test_closing_the_terminal_saves(tmp_path: Path) -> None:
    """The kernel hangs up the launcher and its processes, and their log lines fail from then on."""
    terminal, end = pty.openpty()
    own_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY)  # of the new session\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    logging = "from pause_megatron import log; log.keep_output_from_failing()\n"
    program = logging + SAVES_ON_REQUEST.format(saving="log.write_line('a line') or 0.2")
    launcher = subprocess.Popen(
        [sys.executable, "-c", own_terminal, "-c", LAUNCHER, "2", program],
        cwd=tmp_path,
        start_new_session=True,
        **dict.fromkeys(("stdin", "stdout", "stderr"), end),
    )
    os.close(end)
    try:
        for rank in range(2):
            wait_for(tmp_path / f"running.{rank}")
        os.close(terminal)
        assert launcher.wait(60) == EXIT_REQUEUE
    finally:
        launcher.kill()
        launcher.wait()
    for rank in range(2):
        assert (tmp_path / f"requested.{rank}").read_text() == "SIGHUP"
        assert (tmp_path / f"saved.{rank}").exists()


def test_output_without_a_reader_does_not_end_the_processes(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path\n"
        "from pause_megatron import log; log.keep_output_from_failing()\n"
        "while not Path('closed').exists(): time.sleep(0.01)\n"
        "for _ in range(100): log.write_line('line'); print('output')\n"
        "Path('done.' + os.environ['RANK']).touch(); sys.exit(85)"
    )
    with launched(tmp_path, program) as launcher:
        assert launcher.stderr
        launcher.stderr.close()
        launcher.stderr = None
        (tmp_path / "closed").touch()
        assert launcher.wait(60) == EXIT_REQUEUE
    assert (tmp_path / "done.0").exists()
    assert (tmp_path / "done.1").exists()


def test_process_ended_by_a_signal_is_named_and_the_others_are_killed(tmp_path: Path) -> None:
    killed = "import os, signal, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(600)"
    assert run(tmp_path, killed, count=3) == (EXIT_LOST_PROCESS, "rank 1 was ended by SIGKILL\n")


def test_rendezvous_port_is_reserved_for_rank_0(tmp_path: Path) -> None:
    program = (
        "import os, socket, sys; port = int(os.environ['MASTER_PORT']); other = socket.socket()\n"
        "if other.connect_ex(('127.0.0.1', port)) == 0: sys.exit(2)  # something listens already\n"
        "try: socket.socket().bind(('127.0.0.1', port)); sys.exit(3)  # another program got the port\n"
        "except OSError: pass\n"
        "socket.create_server(('', port)).listen()  # as rank 0 does"
    )
    assert run(tmp_path, program, count=1) == (EXIT_DONE, "")


def test_hung_process_does_not_hide_the_exit_of_the_others(tmp_path: Path) -> None:
    program = "import os, sys; os.kill(os.getpid(), 19) if os.environ['RANK'] == '1' else sys.exit(86)"
    assert run(tmp_path, program) == (EXIT_LOST_PROCESS, "")


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], EXIT_DONE),
        ([85, 85], EXIT_REQUEUE),
        ([85, 0], EXIT_REQUEUE),
        ([EXIT_USER, None], EXIT_USER),
        ([EXIT_INTERNAL, EXIT_USER, EXIT_LOST_PROCESS], EXIT_USER),
        ([EXIT_LOST_PROCESS, None, EXIT_INTERNAL], EXIT_INTERNAL),
        ([85, 3], 3),
    ],
)
def test_exit_code_is_the_most_informative_one(tmp_path: Path, codes: list[int | None], expected: int) -> None:
    """All exit together; a process with code None sleeps until it is killed."""
    program = (
        "import os, sys, time; from pathlib import Path\n"
        f"code = {codes}[int(os.environ['RANK'])]; Path(os.environ['RANK']).touch()\n"
        f"while len(list(Path().iterdir())) < {len(codes)}: time.sleep(0.01)\n"
        "time.sleep(600) if code is None else os._exit(code)"
    )
    assert run(tmp_path, program, len(codes)) == (expected, "")
