"""Finds the commands in README.md, docs/ and ds_configs/README.md, and splits them into program and arguments."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PAGES = (
    README,
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "how_to").glob("*.md")),
    *sorted((REPOSITORY / "docs" / "examples").glob("*/README.md")),
    REPOSITORY / "ds_configs" / "README.md",
)
LAUNCHERS = ("srun", "mpirun", "torchrun", "deepspeed")
"""Programs that may come before one of our commands, with options of their own."""
ELISION = "..."
"""Left out of a command: the required flags, as in an earlier example."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"as\s+`([\w./-]+)`:\n\n```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(
    r"(pause-megatron|python|pip|make|git|cd|source|sbatch|scancel|scontrol|\$EDITOR|slurm/\w+\.sh|\w+=\S+ "
    rf"|{'|'.join(LAUNCHERS)})\b"
)


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block of a page."""

    page: str
    """Path in the repository."""
    language: str
    """Word after the opening fence; may be empty."""
    text: str

    @property
    def commands(self) -> list[str]:
        """Command lines without comments, continued lines joined; none if the block shows no commands."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language not in ("", "sh", "bash") or not any(_COMMAND.match(line) for line in lines):
            return []
        words = [shlex.split(line, comments=True) for line in lines]
        return [part.strip() for line in words if line for part in shlex.join(line).split("'&&'")]


@dataclass(frozen=True)
class Command:
    """A command line that starts one of our programs."""

    name: str
    """``pretrain``, ``preprocess_c4.py``, ``slurm/grid.sh``, ...: a subcommand, a file of tools/, or a batch script."""
    arguments: list[str]
    launcher: list[str]
    """``srun``, ``torchrun --nproc-per-node 8``, ...; empty without one."""


def code_blocks(page: Path) -> list[CodeBlock]:
    """Return every fenced block of ``page``."""
    name = str(page.relative_to(REPOSITORY))
    return [CodeBlock(name, *found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]


def shown_files(page: Path) -> dict[str, str]:
    """Return name to content of the files that a page shows: blocks after text that ends with "as `NAME`:"."""
    return {name: content for name, _, content in _NAMED.findall(page.read_text(encoding="utf-8"))}


def section(page: Path, heading: str) -> str:
    """Return the text of a page from a second-level heading to the next."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert rest, f"{page.name} has no section '{heading}'"
    return rest.partition("\n## ")[0]


def inline_commands(page: Path) -> list[str]:
    """Return the commands in running text: code spans that start with one of our programs and have an argument."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    programs = r"(pause-megatron [a-z]|python |make [a-z]|sbatch .*slurm/|slurm/\w+\.sh )"
    return [span for span in spans if re.match(programs, span)]


def our_command(line: str) -> Command | None:
    """Split a command line of ours; ``None`` if it starts another program."""
    words = list(dropwhile(re.compile(r"[A-Z_]+=").match, shlex.split(line)))  # without variables before the command
    for index, word in enumerate(words):
        before, after = words[:index], words[index + 1 :]
        if word == "pause-megatron" and after:
            return Command(after[0], after[1:], before)
        if word == "pause_megatron" and before[-1:] == ["-m"]:
            return Command(after[0], after[1:], [each for each in before[:-1] if each != "python"])
        if re.fullmatch(r"tools/\w+\.py", word):
            return Command(word.removeprefix("tools/"), after, [each for each in before if each != "python"])
        if re.fullmatch(r"slurm/\w+\.sh", word) and before[:1] in ([], ["sbatch"]):
            return Command(word, [*before[1:], *after], before[:1])
    return None
