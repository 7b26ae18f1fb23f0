"""``--quiet`` and ``--log-file`` work in every command, and change no result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pause_megatron import log
from pause_megatron.cli.commands import COMMANDS
from pause_megatron.cli.flags import flag_parser, parse, take_log_flags
from pause_megatron.cli.main import main
from pause_megatron.config.generated_tasks import GenerateTaskConfig
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError

GENERATE = ["generate-task", "parity", "--bits", "4", "--train", "4", "--test", "4", "--validation", "2"]


@pytest.fixture(autouse=True)
def log_as_before() -> object:
    yield
    log.configure(quiet=False, file=None)


def test_a_line_has_time_host_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("message")
    line = capsys.readouterr().err
    found = log.LINE.match(line)
    assert found
    assert line[found.end() :] == "message\n"
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [^\s.]+ \[ *\d+\.\ds\] ", line)


def test_quiet_keeps_warnings_errors_and_the_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "logs" / "run.log"
    assert take_log_flags(["--seed", "1", "--quiet", "--log-file", str(file)]) == ["--seed", "1"]
    log.info("a step")
    log.progress("\n[1/3] a stage")
    log.warn("a warning")
    log.write_line("error: a mistake")
    shown = capsys.readouterr().err.splitlines()
    assert [line.split("] ")[-1] for line in shown] == ["warning: a warning", "error: a mistake"]
    written = file.read_text(encoding="utf-8").splitlines()
    assert all(log.LINE.match(line) for line in written)
    endings = ["a step", "[1/3] a stage", "warning: a warning", "error: a mistake"]
    assert [log.LINE.sub("", line) for line in written] == endings
    assert log.flags() == ["--quiet", "--log-file", str(file)]


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    for number in range(2):
        take_log_flags(["--log-file", str(file)])
        log.info(f"line {number}")
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2


def test_a_log_file_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "--output", str(tmp_path / "task"), "--log-file", str(tmp_path)]) == EXIT_USER
    assert capsys.readouterr().err == f"error: --log-file {tmp_path}: Is a directory; give a file that can be written\n"
    with pytest.raises(UserError, match="--log-file: has no value; give one after the flag"):
        take_log_flags(["--log-file"])


def test_a_command_is_quiet_and_gives_the_same_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, flags in (("loud", []), ("quiet", ["--quiet", "--log-file", str(tmp_path / "log")])):
        assert main([*GENERATE, "--output", str(tmp_path / name), *flags]) == EXIT_DONE
    said = capsys.readouterr().err
    assert str(tmp_path / "loud") in said
    assert str(tmp_path / "quiet") not in said
    assert str(tmp_path / "quiet") in (tmp_path / "log").read_text(encoding="utf-8")
    for file in (tmp_path / "loud").iterdir():
        assert file.read_bytes() == (tmp_path / "quiet" / file.name).read_bytes()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_lists_the_flags(name: str) -> None:
    assert {"--quiet", "--log-file"} <= flag_parser(COMMANDS[name].config_class(), name).options.keys()


def test_check_accepts_the_flags() -> None:
    config = parse(GenerateTaskConfig, "generate-task", [*GENERATE[1:], "--output", "task", "--quiet"])
    assert config.train == 4
    assert not hasattr(config, "quiet")
