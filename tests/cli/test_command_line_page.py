"""docs/command_line.md: its commands parse, its files are read, and its errors are the ones that are printed."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.cli.flags import parse
from pause_megatron.cli.main import main
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import EXIT_DONE, EXIT_USER
from pause_megatron.records.files import write_record
from pause_megatron.records.pretraining import RunRecord
from tests.records.examples import example

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
FILES = [text for language, text in BLOCKS if language == "yaml"]
COMMANDS_SHOWN = [line for language, text in BLOCKS if not language for line in text.splitlines()]
REQUIRED = ["--data", "D", "--output", "O", "--tokenizer", "T", "--deepspeed", "S"]


@pytest.fixture(autouse=True)
def folder_with_run_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text(FILES[0])
    config = to_plain(parse(PretrainConfig, "pretrain", ["--config", str(tmp_path / "run.yaml")]))
    write_record(tmp_path / "runs/paused/run.json", replace(example(RunRecord), config=config, directory="../.."))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", COMMANDS_SHOWN)
def test_shown_command_is_accepted(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, name, *rest = shlex.split(line)
    assert program == "pause-megatron"
    if name == "help" and rest:
        with pytest.raises(SystemExit) as ended:
            main([name, *rest])
        assert ended.value.code == EXIT_DONE
    elif name in SUBCOMMANDS:
        assert main(["check", name, *rest]) == EXIT_DONE, capsys.readouterr().err
    else:
        assert main([name, *rest]) == EXIT_DONE, capsys.readouterr().err


def test_shown_files_are_read() -> None:
    flat = parse(PretrainConfig, "pretrain", ["--config", "run.yaml"])
    assert flat.training.train_iters == 10_000
    assert flat.checkpoint.async_save
    Path("sections.yaml").write_text(FILES[1])
    sections = parse(PretrainConfig, "pretrain", [*REQUIRED, "--config", "sections.yaml"])
    assert sections.training.micro_batch_size == 8
    assert sections.checkpoint.keep_checkpoints == 3
    assert len(FILES) == 2


def test_flag_overrides_file_and_file_overrides_preset_as_shown() -> None:
    line = next(line for line in COMMANDS_SHOWN if "--preset" in line)
    config = parse(PretrainConfig, "pretrain", shlex.split(line)[2:])
    assert config.training.train_iters == 500
    assert config.training.global_batch_size == 256
    assert config.model.num_layers == 12


def test_shown_errors_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = next(text for language, text in BLOCKS if language == "console")
    shown = re.findall(r"^\$ pause-megatron (.*)\n(.*)$", transcript, re.MULTILINE)
    assert len(shown) == transcript.count("$ ")
    for arguments, error in shown:
        assert main(shlex.split(arguments)) == EXIT_USER
        assert capsys.readouterr().err == f"{error}\n"


def test_unknown_key_error_is_the_shown_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("train_iter: 3\n")
    assert main(["check", "pretrain", "--config", "run.yaml"]) == EXIT_USER
    assert "run.yaml: unknown key 'train_iter'; did you mean 'train_iters'?" in capsys.readouterr().err
    assert "`run.yaml: unknown key 'train_iter'; did you mean 'train_iters'?`" in PAGE


def test_exit_codes_are_those_of_the_program() -> None:
    from pause_megatron import errors

    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes
