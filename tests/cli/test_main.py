"""The command line: help, presets, configuration files, and errors as one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS, TOOLS
from pause_megatron.cli.main import main, parse, run_command
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping, flat_fields, to_plain
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError

REQUIRED = ["--data", "D", "--output", "O", "--tokenizer", "T", "--deepspeed", "S"]


def parse_pretrain(*arguments: str) -> PretrainConfig:
    return parse(PretrainConfig, "pause-megatron pretrain", [*REQUIRED, *arguments])


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == EXIT_DONE
    printed = capsys.readouterr().out
    for name in [*SUBCOMMANDS, *TOOLS]:
        assert name in printed


@pytest.mark.parametrize("name", [*SUBCOMMANDS, *TOOLS])
def test_help_describes_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = {**SUBCOMMANDS, **TOOLS}[name]
    with pytest.raises(SystemExit) as ended:
        run_command(command, name, ["--help"])
    assert ended.value.code == EXIT_DONE
    printed = capsys.readouterr().out
    for flag in flat_fields(command.config_class()):
        assert f"--{flag.replace('_', '-')}" in printed
    assert "default" in printed


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrian"]) == EXIT_USER
    assert "pretrian" in capsys.readouterr().err


def test_flags_win_over_file_and_file_over_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model:\n  num_layers: 6\ntrain-iters: 7\nvalidation_data: [A, B]\nsequence_parallel: true\n")
    arguments = ["--hidden-size", "96", "--num-attention-heads", "3", "--config", str(file), "--preset", "tiny"]
    config = parse_pretrain(*arguments)
    assert config.model.hidden_size == 96
    assert config.model.num_layers == 6
    assert config.model.max_position_embeddings == 256
    assert config.training.train_iters == 7
    assert config.validation_data == ("A", "B")
    assert config.parallel.sequence_parallel


def test_resolved_configuration_reads_back_as_itself() -> None:
    config = parse_pretrain("--preset", "1b", "--train-iters", "9", "--no-untie-embeddings-and-output-weights")
    again = parse(PretrainConfig, "pretrain", flags_of_mapping(to_plain(config), PretrainConfig, "test"))
    assert again == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("num_layer: 6\n", r"run\.yaml: unknown key 'num_layer'"),
        ("model: {layers: 6}\n", "unknown key 'layers'"),
        ("- 1\n", "expected a mapping"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_configuration_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        parse_pretrain("--train-iters", "1", "--config", str(file))


def test_unknown_preset_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="presets: tiny, 130m, 1b"):
        parse_pretrain("--preset", "2b")
    with pytest.raises(UserError, match="No such file"):
        parse_pretrain("--config", str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="--config needs a value"):
        parse_pretrain("--config")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", *REQUIRED, "--train-iters", "0"], "error: --train-iters 0: must be at least 1"),
        (["pretrain", *REQUIRED, "--train-iters", "1"], "error: "),
    ],
)
def test_bad_use_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pause_megatron", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == EXIT_USER, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
