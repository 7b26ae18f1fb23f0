"""Flags: help text of every command, values from presets, files and flags, and errors."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from pause_megatron.cli.commands import COMMANDS
from pause_megatron.cli.flags import flag_parser, parse
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping, flat_fields, to_plain
from pause_megatron.errors import EXIT_DONE, UserError

REQUIRED = ["--data", "D", "--output", "O", "--tokenizer", "T", "--deepspeed", "S"]


def parse_pretrain(*arguments: str) -> PretrainConfig:
    return parse(PretrainConfig, "pause-megatron pretrain", [*REQUIRED, *arguments])


@pytest.fixture(params=[80, 110])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(COMMANDS[name].config_class(), name, ["--help"])
    assert ended.value.code == EXIT_DONE
    return capsys.readouterr().out


def help_column(printed: str) -> int:
    """Column in which the help texts of the flags start."""
    return next(line.index("Print this help.") for line in printed.splitlines() if "Print this help." in line)


def help_texts(printed: str) -> dict[str, str]:
    """Flag to its help text, lines joined."""
    texts: dict[str, str] = {}
    column = help_column(printed)
    for line in printed.splitlines():
        if found := re.match(r"  (?:-h, )?(--\S+)", line):
            flag = found[1].replace("[no-]", "")
            texts[flag] = line[column:] if line[:column].endswith("  ") else ""
        elif line.startswith(" " * column):
            texts[flag] = f"{texts[flag]} {line.strip()}".strip()
    return texts


def test_first_argument_may_be_the_name_that_a_command_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    config = COMMANDS["generate-task"].config_class()
    words = ["--bits", "9", "--output", "O"]
    assert parse(config, "generate-task", ["parity", *words]) == parse(config, "p", [*words, "--task", "parity"])
    assert "usage: generate-task TASK --output PATH [FLAGS]" in help_of("generate-task", capsys)
    with pytest.raises(UserError, match=r"--task: 'chess' is not allowed; choose from parity, lookup, 3sum"):
        parse(config, "generate-task", ["chess", *words])
    with pytest.raises(UserError, match=r"9: not a flag"):
        parse(PretrainConfig, "pause-megatron pretrain", ["9", *REQUIRED, "--train-iters", "1"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_flag_and_its_default(name: str, columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    texts = help_texts(help_of(name, capsys))
    expected = {f"--{flag.replace('_', '-')}" for flag in flat_fields(COMMANDS[name].config_class())}
    assert expected | {"--help", "--config"} <= set(texts)
    for flag in expected:
        explanation = re.sub(r"\((default: .*|required)\)$", "", texts[flag]).strip()
        assert len(explanation.split()) >= 2, f"{flag}: {texts[flag]}"
        assert re.search(r"default|\(required\)$", texts[flag]), f"{flag}: {texts[flag]}"
        assert "(default: )" not in texts[flag]
        assert "(default: None)" not in texts[flag]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fills_the_width_and_has_no_source_line_breaks(
    name: str, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = help_of(name, capsys)
    lines, column = printed.splitlines(), help_column(printed)
    assert max(map(len, lines)) <= columns
    for line, following in pairwise(lines):
        assert line.strip() or following.strip(), "two blank lines in a row"
        starts_help = line[column - 2 : column] == "  " and line[column:].strip()
        same_text = starts_help and following.startswith(" " * column)
        same_paragraph = line[:1].strip() and following[:1].strip() and not line.startswith("usage")
        if same_text or same_paragraph:
            assert len(line) + 1 + len(following.split()[0]) > columns - 2, f"line broken too early: {line}"


def test_many_choices_are_listed_in_the_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_texts(help_of("finetune", capsys))["--pause-placement"]
    assert "NAME is one of: append, prepend, before-marker, after-marker, every, before-unlikely." in " ".join(
        text.split()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_long_help_is_in_groups(name: str) -> None:
    config_class = COMMANDS[name].config_class()
    assert set(getattr(config_class, "GROUPS", {})) <= {field.name for field in fields(config_class)}
    titles = re.findall(r"^(\S.*):$", flag_parser(config_class, name).format_help(), re.MULTILINE)
    assert len(titles) == len(set(titles)), titles
    assert len(flat_fields(config_class)) < 12 or len(titles) >= 3, titles


def test_required_flags_are_in_the_usage_line() -> None:
    usage = " ".join(flag_parser(PretrainConfig, "pretrain").format_usage().split())
    required = "--data TEXT --output PATH --tokenizer PATH --deepspeed PATH --train-iters INT"
    assert usage == f"usage: pretrain {required} [FLAGS]"


def test_presets_are_listed_within_the_width(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    listed = help_texts(help_of("finetune", capsys))["--preset"]
    for preset in FinetuneConfig.PRESETS:
        assert preset in listed


def test_flags_override_the_file_and_the_file_overrides_the_preset(tmp_path: Path) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner fields."""

    depth: int = 1
    """Depth in layers."""
    width: int = 5
    """Width in units."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Fields of every type.

    A second paragraph that
    continues on the next line.
    """

    number: int | str = 3
    """Number or range, such as
    1..5."""
    rate: float | None = None
    """Rate."""
    mode: Literal["fast", "slow"] | None = "fast"
    """Mode; 50 % is fast."""
    sizes: tuple[int, ...] = ()
    """Sizes."""
    file: Path | None = None
    """File (default: standard input)."""
    shuffle: bool | None = None
    """Shuffle."""
    title: str = "a b"
    """Title."""
    counts: int | tuple[int, ...] | None = None
    """Counts."""
    inner: Inner = Inner()

    GROUPS: ClassVar[dict[str, str]] = {"file": "files"}


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--number", "7"], "number", 7),
        (["--number", "1..5"], "number", "1..5"),
        (["--rate", "1e-3"], "rate", 1e-3),
        (["--rate", "1", "--rate", "None"], "rate", None),
        (["--rate=-2"], "rate", -2.0),
        (["--mode", "slow"], "mode", "slow"),
        (["--mode", "None"], "mode", None),
        (["--sizes", "1", "2"], "sizes", (1, 2)),
        (["--sizes", "1", "--sizes"], "sizes", ()),
        (["--file", "None"], "file", None),
        (["--file", "a_b"], "file", Path("a_b")),
        (["--shuffle"], "shuffle", True),
        (["--no-shuffle"], "shuffle", False),
        (["--title", ""], "title", ""),
        (["--title=--x"], "title", "--x"),
        (["--title", "-- x_y"], "title", "-- x_y"),
        (["--sizes", "1"], "sizes", (1,)),
        (["--counts", "3"], "counts", 3),
        (["--counts", "0", "3"], "counts", (0, 3)),
        (["--counts", "None"], "counts", None),
        (["--width", "9"], "inner", Inner(depth=1, width=9)),
    ],
)
def test_flag_becomes_a_value_of_the_fields_type(arguments: list[str], name: str, value: object) -> None:
    parsed = getattr(parse(Outer, "outer", arguments), name)
    assert parsed == value
    assert type(parsed) is type(value)


def test_underscores_are_accepted_in_flags() -> None:
    config = parse_pretrain("--train_iters", "4", "--micro_batch_size=2", "--no-async_save")
    assert (config.training.train_iters, config.training.micro_batch_size) == (4, 2)


def test_help_shows_types_groups_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    printed = flag_parser(Outer, "outer").format_help()
    for line in [
        "A second paragraph that continues on the next line.",
        "--number INT|TEXT Number or range, such as 1..5. (default: 3)",
        "--rate FLOAT Rate. (default: none)",
        "--mode {fast,slow} Mode; 50 % is fast. (default: fast)",
        "--sizes [INT ...] Sizes. (default: none)",
        "files:",
        "--file PATH File (default: standard input).",
        "--[no-]shuffle Shuffle. (default: none)",
        "--title TEXT Title. (default: 'a b')",
        "inner:",
        "--depth INT Depth in layers. (default: 1)",
    ]:
        assert line in [" ".join(shown.split()) for shown in printed.splitlines()], printed


def test_value_with_leading_hyphens_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "outer.yaml"
    file.write_text("title: --x\nrate: -1.5\n")
    assert parse(Outer, "outer", ["--config", str(file)]) == Outer(title="--x", rate=-1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-layer", "3"], "--num-layer: unknown flag; did you mean '--num-layers'?"),
        (["--num-layer=3"], "--num-layer: unknown flag; did you mean '--num-layers'?"),
        (["--qqq"], "--qqq: unknown flag; 'pretrain --help' lists the flags"),
        (
            [],
            "--data, --output, --tokenizer, --deepspeed, --train-iters: required; 'pretrain --help' explains the flags",
        ),
        (["--train-iters", "many"], "--train-iters: 'many' is not allowed; give a value of type INT"),
        (["--schedule", "cosin"], "--schedule: 'cosin' is not allowed; did you mean 'cosine'?"),
        (["--schedule", "x"], "--schedule: 'x' is not allowed; choose from cosine, linear, wsd, constant"),
        (["--output"], "--output: has no value; give one after the flag"),
        (["--config"], "--config: has no value; give one after the flag"),
        (["--preset", "llama-2b"], "--preset llama-2b: unknown preset; did you mean 'llama-1b'?"),
        (["--preset", "x"], "--preset x: unknown preset; choose from tiny, 130m, 1b, llama-130m, llama-1b"),
        (["--dry-run=yes"], "--dry-run/--no-dry-run: 'yes' is not used; give the flag without a value"),
        (
            ["stray", *REQUIRED, "--train-iters", "3"],
            "stray: not a flag; put the flag that it belongs to in front of it",
        ),
        (["--config", "none.yaml"], "--config none.yaml: No such file or directory"),
        (["--output", "\U0001f600\udcff"], "'\U0001f600\\udcff': is not UTF-8; rename the file, or correct the text"),
    ],
)
def test_wrong_flag_is_refused_with_the_flag_the_problem_and_a_fix(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(PretrainConfig, "pretrain", arguments)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("num_layer: 6\n", r"run\.yaml: unknown key 'num_layer'; did you mean 'num_layers'\?"),
        ("1: 6\n", r"run\.yaml: unknown key '1'; choose from "),
        ("model: {layers: 6}\n", "unknown key 'layers'"),
        ("- 1\n", "holds a list"),
        ("a: [\n", "not YAML"),
        ('a: "half \\ud83d"\n', "not YAML"),
        ('{"\\ud83d": 1}\n', "not YAML"),
    ],
)
def test_wrong_configuration_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        parse_pretrain("--train-iters", "1", "--config", str(file))


def test_every_field_of_every_command_has_a_default_or_is_required() -> None:
    for name, command in COMMANDS.items():
        config_class = command.config_class()
        required = {action.dest for action in flag_parser(config_class, name)._actions if action.required}
        for config_field in fields(config_class):
            if config_field.name in flat_fields(config_class):
                no_default = config_field.default is MISSING and config_field.default_factory is MISSING
                assert (config_field.name in required) == no_default, config_field.name
