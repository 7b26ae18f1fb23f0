"""Signals are noted and wait for the loop; only Ctrl-C, pressed again, does not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.errors import EXIT_REQUEUE, StoppedEarly
from pause_megatron.training.stop_requests import StopRequest, StopRequests, stopped_early

HEAD = """
import os, signal, time
from pause_megatron.errors import StoppedEarly
from pause_megatron.parallel.signals import STOP_SIGNALS, stop_signals_held_back
from pause_megatron.training.stop_requests import StopRequests
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
def send(*names):
    for name in names:
        os.kill(os.getpid(), signal.Signals[name])
"""


def run(program: str) -> tuple[int, list[str]]:
    """Exit code of a Python program (negative: the signal that ended it), and the lines it printed."""
    done = subprocess.run([sys.executable, "-c", HEAD + program], stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_signals_are_noted_and_the_strongest_is_the_request() -> None:
    code, said = run("""
with StopRequests(0) as stop:
    print(repr(stop.request), flush=True)
    for name in ("SIGHUP", "SIGUSR1", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGTERM", "SIGINT"):
        send(name)
        print(stop.request.name, flush=True)
""")
    assert (code, said[0]) == (0, repr(StopRequest.NONE))
    assert said[1:] == ["SIGHUP", "SIGUSR1", "SIGUSR1", "SIGTERM", "SIGTERM", "SIGTERM", "SIGINT"]


def test_hangups_that_nohup_ignores_stay_ignored() -> None:
    code, said = run("""
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with StopRequests(0) as stop:
    send("SIGHUP")
    print(stop.request.name, flush=True)
""")
    assert (code, said) == (0, ["NONE"])


def test_ctrl_c_pressed_again_ends_the_process_even_where_python_does_not_run() -> None:
    code, said = run("""
import ctypes, threading
with StopRequests(0) as stop:
    send("SIGINT")
    print(stop.request.name, flush=True)
    threading.Timer(0.5, send, ["SIGINT"]).start()
    ctypes.CDLL(None).pause()
""")
    assert (code, said) == (-signal.SIGINT, ["SIGINT"])


def test_handlers_are_given_back() -> None:
    code, said = run("""
before = [signal.getsignal(number) for number in STOP_SIGNALS]
for error in (None, ValueError()):
    try:
        with StopRequests(0):
            assert all(signal.getsignal(number) not in before for number in STOP_SIGNALS)
            send("SIGINT")
            if error:
                raise error
    except ValueError:
        pass
    print([signal.getsignal(number) for number in STOP_SIGNALS] == before)
""")
    assert (code, said) == (0, ["True", "True"])


def test_nothing_changes_the_exit_code_of_a_process_that_has_saved() -> None:
    code, said = run("""
try:
    with StopRequests(0) as stop:
        send("SIGTERM")
        raise StoppedEarly(stop.request.reason)
except StoppedEarly as stopped:
    print(stopped)
send("SIGTERM", "SIGUSR1", "SIGINT")
raise SystemExit(85)
""")
    assert (code, said) == (EXIT_REQUEUE, ["stopped by SIGTERM"])


def test_signals_that_come_during_the_imports_are_held_back_for_the_loop() -> None:
    code, said = run("""
with stop_signals_held_back():
    send("SIGTERM")
    print("importing")
    with StopRequests(0) as stop:
        print(stop.request.name)
""")
    assert (code, said) == (0, ["importing", "SIGTERM"])


def test_signals_nobody_took_end_the_process_in_the_end() -> None:
    code, said = run("""
with stop_signals_held_back():
    send("SIGTERM")
    print("importing", flush=True)
print("lost")
""")
    assert (code, said) == (-signal.SIGTERM, ["importing"])


def test_exit_duration_counts_from_the_start_of_the_process() -> None:
    code, said = run("""
with StopRequests(3 / 60) as stop:
    print(stop.request.name)
    time.sleep(3)
    print(stop.request.name, stop.request.reason)
    send("SIGUSR1")
    print(stop.request.name)
""")
    assert (code, said) == (0, ["NONE", "TIME_IS_UP --exit-duration reached", "SIGUSR1"])


@pytest.mark.parametrize(
    ("request_number", "checkpoint", "line"),
    [
        (4, Path("run/iteration-7"), "stopped by SIGTERM after iteration 7; the same command resumes from run/iterat"),
        (1, None, "--exit-duration reached during startup; the same command starts the run again"),
    ],
)
def test_message_says_why_and_where_it_goes_on(request_number: int, checkpoint: Path | None, line: str) -> None:
    error = stopped_early(request_number, iteration=7, checkpoint=checkpoint)
    assert isinstance(error, StoppedEarly)
    assert str(error).startswith(line)


def test_request_is_a_number_that_can_be_exchanged() -> None:
    assert [int(request) for request in StopRequest] == sorted(int(request) for request in StopRequest)
    assert StopRequests(0).request == 0
    assert {StopRequest(number).reason for number in (2, 3, 4, 5)} == {
        "stopped by SIGHUP",
        "stopped by SIGUSR1",
        "stopped by SIGTERM",
        "stopped by SIGINT",
    }
