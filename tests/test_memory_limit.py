"""Under a limit of memory, a command that a library aborts ends with one line, and nothing remains of its output."""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pause_megatron.atomic import new_folder
from pause_megatron.cli.commands import COMMANDS, Command
from pause_megatron.cli.main import run_command
from pause_megatron.errors import EXIT_DONE, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USER, StoppedEarly, UserError
from pause_megatron.log import LINE
from tests.readers.good_folders import finetuning, made

LIMIT_BYTES = 4 << 30
MEGABYTES = (40, 320, 360, 400, 450, 500, 600)
"""Limits of the slow test, above the memory after the imports."""
LIMITED = f"""
import resource, sys
from {__name__} import *
resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
sys.exit(run_command(COMMAND, "end", sys.argv[1:]))
"""


@dataclass(frozen=True, kw_only=True)
class EndingConfig:
    """Configuration of a command that only ends."""

    how: str
    """Way to end."""
    output: Path
    """Folder to write."""


def end(config: EndingConfig) -> None:
    with new_folder(config.output) as folder:
        (folder / "pid").write_text(str(os.getpid()))
        print("log line", file=sys.stderr, flush=True)
        match config.how:
            case "abort":
                throw_in_a_thread()
            case "abort silently":
                os.abort()
            case "crash":
                ctypes.string_at(0)
            case "openmp":
                os.write(2, b"\nlibgomp: Thread creation failed: Resource temporarily unavailable\n")
                os._exit(1)
            case "wrong":
                raise UserError("FILE: no such file; give another")
            case "stopped":
                raise StoppedEarly("stopped")
            case "bug":
                raise ValueError("a bug")
            case "wait":
                (config.output.parent / "waiting").touch()
                time.sleep(600)


def throw_in_a_thread() -> None:
    """Throw what C++ throws when it finds no memory, where no Python code catches it."""
    throw = ctypes.CDLL("libstdc++.so.6")._ZSt17__throw_bad_allocv
    thread = threading.Thread(target=throw)
    thread.start()
    thread.join()


COMMAND = Command(summary="", config=f"{__name__}:EndingConfig", function=f"{__name__}:end")
ABORTED = "error: memory: a library ended this command ("


def command_under_limit(how: str, output: Path) -> list[str]:
    return [sys.executable, "-c", LIMITED, "--how", how, "--output", str(output)]


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("done", EXIT_DONE, ""),
        ("wrong", EXIT_USER, "error: FILE: no such file; give another"),
        ("stopped", 85, "stopped (exit code 85)"),
        ("bug", EXIT_INTERNAL, "Traceback (most recent call last):"),
        ("abort", EXIT_USER, f"{ABORTED}SIGABRT: terminate called after throwing an instance of 'std::bad_alloc'"),
        ("abort silently", EXIT_USER, f"{ABORTED}SIGABRT)"),
        ("crash", EXIT_USER, f"{ABORTED}SIGSEGV)"),
        ("openmp", EXIT_USER, f"{ABORTED}exit code 1: libgomp: Thread creation failed: "),
    ],
)
def test_ends_with_one_line_and_leaves_nothing(how: str, code: int, line: str, tmp_path: Path) -> None:
    done = subprocess.run(command_under_limit(how, tmp_path / "out"), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    first, *said = [said for said in done.stderr.splitlines() if said]
    assert first == "log line"
    if code == EXIT_USER:
        [only] = said
        assert only.startswith(line)
        assert ("under the limit of 4295 MB; raise the limit of memory" in only) == line.startswith(ABORTED)
    elif line:
        assert said[0] == line
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if code == EXIT_DONE else [])


def test_limit_that_leaves_too_little_for_libraries_is_refused_at_once(tmp_path: Path) -> None:
    command = command_under_limit("done", tmp_path / "out")
    limit = "(address_space() + (40 << 20),) * 2"
    command[2] = "from tests.limited_command import address_space" + LIMITED.replace(
        "(LIMIT_BYTES, LIMIT_BYTES)", limit
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USER, done.stderr
    assert re.fullmatch(
        r"error: memory: the limit of \d+ MB leaves \d\d MB for libraries, which need 315 MB and more; .*\n",
        done.stderr,
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_signals_reach_the_command(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = started_and_waiting(tmp_path)
    process.send_signal(number)
    assert process.wait(60) == code


def test_command_ends_with_its_parent(tmp_path: Path) -> None:
    process = started_and_waiting(tmp_path)
    [child] = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    child.wait(60)
    assert not child.is_running()


def started_and_waiting(folder: Path) -> subprocess.Popen[str]:
    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, such as this test run, ignore them

    process = subprocess.Popen(
        command_under_limit("wait", folder / "out"), stderr=subprocess.DEVNULL, text=True, preexec_fn=heed_interrupts
    )
    while not (folder / "waiting").exists():
        time.sleep(0.01)
        assert process.poll() is None
    return process


def test_without_a_limit_there_is_no_child(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "the tests run under a limit"
    assert run_command(COMMAND, "end", ["--how", "done", "--output", str(tmp_path / "out")]) == EXIT_DONE
    assert (tmp_path / "out" / "pid").read_text() == str(os.getpid())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    config = COMMANDS["convert_from_hf.py"].config_class()(model=made("model"), output=folder)
    COMMANDS["convert_from_hf.py"].run(config)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convert_from_hf.py", "convert_to_hf.py", "finetune", "evaluate"])
def test_every_limit_gives_a_result_or_one_line(name: str, checkpoint: Path, tmp_path: Path) -> None:
    data = finetuning(tmp_path).data
    flags = {
        "convert_from_hf.py": ["--model", made("model")],
        "convert_to_hf.py": ["--checkpoint", checkpoint],
        "finetune": ["--model", made("model"), "--task", "parity", "--data", data, "--steps", 2, "--warmup-steps", 0],
        "evaluate": ["--model", made("model"), "--task", "parity", "--data", data],
    }[name]
    limits = ",".join(map(str, MEGABYTES))
    command = [sys.executable, "-W", "ignore", "-m", "tests.limited_command", name, limits, *flags]
    command += ["--output", tmp_path / "out"]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=True)
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert ended[0][0] == EXIT_USER
    for code, said in ended:
        lines = [line for line in said.splitlines() if not LINE.match(line)]
        assert code in (EXIT_DONE, EXIT_USER), said
        if code == EXIT_USER:
            assert [line[:15] for line in lines] == ["error: memory: "], said
    assert {path.name for path in tmp_path.iterdir()} <= {"out", ".out.work"}
