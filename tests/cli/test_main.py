"""The entry point: overview, help by name, checks without running, and errors on one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron import __version__
from pause_megatron.cli.commands import COMMANDS, SUBCOMMANDS, TOOLS
from pause_megatron.cli.main import main
from pause_megatron.errors import EXIT_DONE, EXIT_USER

FINETUNE = ["--model", "M", "--task", "parity", "--output", "O"]
PRETRAIN = ["--data", "D", "--output", "O", "--tokenizer", "T", "--deepspeed", "S"]


@pytest.mark.parametrize("columns", [80, 110])
@pytest.mark.parametrize("arguments", [[], ["help"], ["-h"], ["--help"]])
def test_overview_lists_every_command_within_the_width(
    arguments: list[str], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(arguments) == EXIT_DONE
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
    for name, command in COMMANDS.items():
        assert name in printed
        assert command.summary in " ".join(printed.split())


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == EXIT_DONE
    assert capsys.readouterr().out == f"pause-megatron {__version__}\n"


@pytest.mark.parametrize("name", [*SUBCOMMANDS, *TOOLS, *(tool.removesuffix(".py") for tool in TOOLS)])
def test_help_of_a_command_or_tool_is_printed_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["help", name])
    assert ended.value.code == EXIT_DONE
    assert name in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "unknown command 'pretrian'; did you mean 'pretrain'?"),
        (["help", "finetun"], "unknown command 'finetun'; did you mean 'finetune'?"),
        (["check", "preprocess_c5.py"], "unknown command 'preprocess_c5.py'; did you mean 'preprocess_c4.py'?"),
        (["check"], f"unknown command ''; choose from {', '.join(COMMANDS)}"),
        (["x"], f"unknown command 'x'; choose from {', '.join(SUBCOMMANDS)}, lm-eval, help, check, completion"),
    ],
)
def test_unknown_command_is_refused_with_a_correction(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == EXIT_USER
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", *FINETUNE], ""),
        (["finetune", *FINETUNE, "--steps", "0"], "error: --steps 0: must be at least 1\n"),
        (["preprocess_c4.py", "--workers", "3"], "error: --input, --tokenizer, --output: required; "),
    ],
)
def test_check_refuses_wrong_flags_and_runs_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == (EXIT_USER if message else EXIT_DONE)
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert bool(printed.err) == bool(message)
    assert printed.out == ""
    assert not Path("O").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", *PRETRAIN, "--train-iters", "0"], "error: --train-iters 0: must be at least 1"),
        (["pretrain", *PRETRAIN, "--train-iters", "1"], "error: "),
        (
            ["pretrain", *PRETRAIN],
            "error: --train-iters: required; 'pause-megatron pretrain --help' explains the flags",
        ),
        (["pretrain", "--dta", "D"], "error: --dta: unknown flag; did you mean '--data'?"),
        (["pretrain", *PRETRAIN, "--train-iters", "x"], "error: --train-iters: 'x' is not allowed; give a value of"),
    ],
)
def test_user_error_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pause_megatron", *arguments]
    login_node = {**os.environ, "CUDA_HOME": str(tmp_path)}  # CUDA's compiler without a GPU
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=login_node, check=False)
    assert done.returncode == EXIT_USER, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
