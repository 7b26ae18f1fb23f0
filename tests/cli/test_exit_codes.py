"""Exit codes of commands, and the line that each prints on standard error."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from pause_megatron.cli.commands import Command
from pause_megatron.cli.main import run_command
from pause_megatron.errors import (
    EXIT_DONE,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_LOST_PROCESS,
    EXIT_REQUEUE,
    EXIT_USER,
    LostProcessError,
    StoppedEarly,
    UserError,
    exit_code,
)


@dataclass(frozen=True, kw_only=True)
class EndingConfig:
    """Configuration of a command that only ends."""

    how: str
    """Way to end: stopped, wrong, interrupted, signalled, or anything else to return."""


def end(config: EndingConfig) -> None:
    match config.how:
        case "stopped":
            raise StoppedEarly("stopped by SIGTERM after iteration 3; the same command continues from there")
        case "wrong":
            raise UserError("FILE: no such file; give another")
        case "large":
            bytearray(1 << 62)
        case "larger":
            import torch  # here: threads that it started before the signals are blocked would take them

            torch.empty(1 << 50)
        case "interrupted":
            raise KeyboardInterrupt
        case "signalled":
            os.kill(os.getpid(), signal.SIGTERM)
            print("not yet", flush=True)


COMMAND = Command(
    summary="", config=f"{__name__}:EndingConfig", function=f"{__name__}:end", distributed=True, saves_when_asked=True
)


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("done", EXIT_DONE, ""),
        ("stopped", EXIT_REQUEUE, "stopped by SIGTERM after iteration 3; the same command continues from there (exit "),
        ("wrong", EXIT_USER, "error: FILE: no such file"),
        ("large", EXIT_USER, "error: memory: too little for this command (MemoryError); raise the limit"),
        ("larger", EXIT_USER, "error: memory: too little for this command ("),
        ("interrupted", EXIT_INTERRUPTED, "interrupted\n"),
    ],
)
def test_command_ends_with_an_exit_code_and_at_most_one_line(
    how: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(COMMAND, "end", ["--how", how]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == bool(line)


@pytest.mark.parametrize(("how", "code"), [("stopped", EXIT_REQUEUE), ("interrupted", EXIT_INTERRUPTED)])
def test_only_rank_0_prints_why_a_run_stopped(
    how: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_command(COMMAND, "end", ["--how", how]) == code
    assert capsys.readouterr().err == ""


def test_signal_is_blocked_until_the_command_ends() -> None:
    program = f"from {__name__} import *; import sys; sys.exit(run_command(COMMAND, 'end', ['--how', 'signalled']))"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "not yet\n")


def test_signal_mask_is_restored_after_the_command() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    run_command(COMMAND, "end", ["--how", "done"])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, EXIT_DONE),
        (SystemExit(), EXIT_DONE),
        (SystemExit(7), 7),
        (SystemExit("why"), EXIT_INTERNAL),
        (KeyboardInterrupt(), EXIT_INTERRUPTED),
        (StoppedEarly(), EXIT_REQUEUE),
        (UserError(), EXIT_USER),
        (LostProcessError(), EXIT_LOST_PROCESS),
        (MemoryError(), EXIT_USER),
        (RuntimeError("can't start new thread"), EXIT_USER),
        (RuntimeError("unable to mmap 12 bytes from file <a>: Cannot allocate memory (12)"), EXIT_USER),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), EXIT_USER),
        (ImportError("a.so: failed to map segment from shared object"), EXIT_USER),
        (ImportError("a.so: cannot allocate memory in static TLS block"), EXIT_INTERNAL),
        (caused_by(ModuleNotFoundError("cannot import AutoModel"), MemoryError()), EXIT_USER),
        (caused_by(ModuleNotFoundError("cannot import AutoModel"), KeyError()), EXIT_INTERNAL),
        (RuntimeError("shapes differ"), EXIT_INTERNAL),
        (ValueError(), EXIT_INTERNAL),
    ],
)
def test_exit_code_of_an_exception(error: BaseException | None, code: int) -> None:
    assert exit_code(error) == code
