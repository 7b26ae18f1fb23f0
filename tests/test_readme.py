"""What the README shows exists: its commands parse, its links lead somewhere, its tree is the tree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS, TOOLS
from pause_megatron.cli.main import parse

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, re.DOTALL)


def shown_commands() -> list[str]:
    """Every command line of a code block, continued lines joined."""
    lines = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in lines if re.match(r"(srun )?pause-megatron|python tools/", line)]


@pytest.mark.parametrize("line", shown_commands())
def test_shown_command_parses(line: str) -> None:
    words = [word for word in shlex.split(line) if word not in ("srun", "python")]
    if words[0] == "pause-megatron":
        name, arguments = words[1], words[2:]
        command = SUBCOMMANDS[name]
    else:
        name, arguments = Path(words[0]).name, words[1:]
        assert (REPOSITORY / words[0]).is_file()
        command = TOOLS[name]
    assert parse(command.config_class(), name, arguments) is not None


def test_every_command_is_shown() -> None:
    shown = " ".join(shown_commands())
    for name in [*SUBCOMMANDS, *TOOLS]:
        assert name in shown or f"make {name}" in README, name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).is_file(), target


def test_tree_is_the_tree() -> None:
    tree = next(block for block in BLOCKS if block.startswith("pause_megatron/"))
    packages = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    assert packages == {path.parent.name for path in (REPOSITORY / "pause_megatron").glob("*/__init__.py")}
    for folder in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (REPOSITORY / folder).is_dir(), folder
    for file in re.findall(r"`([a-z_]+/[a-z_]+\.py)`", README):
        assert (REPOSITORY / "pause_megatron" / file).is_file() or (REPOSITORY / file).is_file(), file


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    shown = re.findall(r"^make (\w+)|`make (\w+)", README, re.MULTILINE)
    for target in {in_block or in_text for in_block, in_text in shown}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
