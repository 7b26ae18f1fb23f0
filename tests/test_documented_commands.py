"""Every command in README.md, docs/*.md and ds_configs/README.md parses with the parser that would run it.

Batch scripts run with ``--dry-run``. A line that none of the checks recognises fails the test.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS, TOOLS
from pause_megatron.cli.main import parse
from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_file import read_grid
from tests.documentation import (
    ELISION,
    PAGES,
    README,
    REPOSITORY,
    CodeBlock,
    Command,
    code_blocks,
    inline_commands,
    our_command,
    shown_files,
)
from tests.downstream.real_samples import FOLDERS
from tests.slurm.site import edit_env, link_checkout

COMMANDS = {**SUBCOMMANDS, **TOOLS}
CHECKED = [page for page in PAGES if page.name != "command_line.md"]
"""Pages without the one that tests/cli/test_command_line_page.py checks, together with the files that it shows."""
BLOCKS = [block for page in CHECKED for block in code_blocks(page)]
SHOWN = [(block.page, line) for block in BLOCKS for line in block.commands]
LINES = list(dict.fromkeys(line for _, line in SHOWN))
OTHER_PROGRAMS = (
    *("git clone", "cd", "pip install", "pip wheel", "pip download", "python -m venv", "docker", "apptainer"),
    *("'$EDITOR'", "export", "source", "scancel", "scontrol"),
)
OTHER_PROGRAMS += ("hf download", "hf auth login", "transformers serve", "curl")
"""Programs that are not ours and are shown without a check of their flags."""
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
COMPLETE: dict[str, list[str]] = {}
"""Name of a command to the arguments of its first complete example, which replace an elision."""
for _line in LINES:
    if (_command := our_command(_line)) and ELISION not in _command.arguments:
        COMPLETE.setdefault(_command.name, _command.arguments)


@pytest.fixture(scope="module", autouse=True)
def folder_with_the_files_of_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The current folder of the commands, with the files that pages show "as `NAME`:"."""
    folder = tmp_path_factory.mktemp("pages")
    for page in CHECKED:
        for name, content in shown_files(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def check_flags(command: Command) -> None:
    """Parse with the real parser, which raises or exits when it refuses the arguments."""
    if command.name == "lm-eval":
        from lm_eval._cli.harness import HarnessCLI

        assert HarnessCLI()._parser.parse_args(["run", *command.arguments])
        return
    assert command.name in COMMANDS, f"unknown command {command.name}"
    arguments = list(command.arguments)
    if ELISION in arguments:
        arguments = [*COMPLETE[command.name], *(word for word in arguments if word != ELISION)]
    assert parse(COMMANDS[command.name].config_class(), command.name, arguments) is not None


def check_launcher(launcher: list[str]) -> None:
    if launcher[:1] == ["torchrun"]:
        from torch.distributed.run import get_args_parser

        assert get_args_parser().parse_args([*launcher[1:], "script"]).training_script == "script"
    elif launcher:
        assert re.fullmatch(r"(srun|mpirun)( --[\w-]+=\S+| -n \d+)*", " ".join(launcher)), launcher


def check_make(words: list[str]) -> None:
    target, *variables = words
    assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), f"no target {target} in the Makefile"
    for variable in variables:
        name, _, value = variable.partition("=")
        assert re.search(rf"^{name} \?=", MAKEFILE, re.MULTILINE), f"no variable {name} in the Makefile"
        if name == "DEMO_FLAGS":
            check_flags(Command("demo", shlex.split(value), []))


@pytest.mark.parametrize("line", LINES)
def test_command_in_a_code_block_parses(line: str) -> None:
    command, words = our_command(line), shlex.split(line)
    if command is not None and command.name.startswith("slurm/"):
        assert (REPOSITORY / command.name).is_file()  # its arguments: test_batch_script_accepts_its_arguments
    elif command is not None:
        check_launcher(command.launcher)
        check_flags(command)
    elif words[0] == "make":
        check_make(words[1:])
    elif words[0] == "python" and not line.startswith(OTHER_PROGRAMS):
        check_script(words[1:])
    else:
        assert line.startswith(OTHER_PROGRAMS), f"not recognised: {line}"


def check_script(words: list[str]) -> None:
    """Check that a Python script or module outside tools/ exists, and that it or one next to it defines the flags."""
    if words[0] == "-m":
        words = [f"{words[1].replace('.', '/')}.py", *words[2:]]
    script = REPOSITORY / words[0]
    assert script.is_file(), words[0]
    sources = "".join(path.read_text(encoding="utf-8") for path in script.parent.glob("*.py"))
    for flag in filter(lambda word: word.startswith("--"), words[1:]):
        assert f'"{flag}"' in sources, f"{words[0]} has no {flag}"


def all_flags(config_class: type) -> set[str]:
    """Return the flags of a configuration class and of those nested in it."""
    flags: set[str] = set()
    for field in fields(config_class):
        hint = get_type_hints(config_class)[field.name]
        nested = [each for each in (hint, *get_args(hint)) if is_dataclass(each)]
        for each in nested:
            assert isinstance(each, type)
            flags |= all_flags(each)
        if not nested:
            flags |= {f"--{field.name.replace('_', '-')}", f"--no-{field.name.replace('_', '-')}"}
    return flags | {"--help", "--config", "--preset"}


@pytest.mark.parametrize("span", sorted({span for page in CHECKED for span in inline_commands(page)}))
def test_command_in_running_text_names_what_exists(span: str) -> None:
    """Required flags may be missing here."""
    command, words = our_command(span), shlex.split(span)
    if words[0] == "make":
        check_make(words[1:])
    elif command is None:
        check_script(words[1:])
    elif command.name.startswith("slurm/"):
        assert (REPOSITORY / command.name).is_file()
    elif command.name == "lm-eval":
        check_flags(command)
    else:
        assert command.name in COMMANDS, span
        known = all_flags(COMMANDS[command.name].config_class())
        given = {word.partition("=")[0] for word in command.arguments if word.startswith("--")}
        assert given <= known, f"{span}: unknown {given - known}"


def test_every_command_is_shown() -> None:
    shown = {command.name for line in LINES if (command := our_command(line))}
    targets = {words[1] for line in LINES if (words := shlex.split(line))[0] == "make"}
    assert SUBCOMMANDS.keys() - shown - targets == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with an edited slurm/env.sh, one C4 file and a folder for each task."""
    folder = tmp_path_factory.mktemp("site")
    checkout = link_checkout(folder)
    (folder / "c4.json.gz").touch()
    for name in FOLDERS.values():
        (folder / "tasks" / name).mkdir(parents=True)
    edit_env(checkout, C4=folder / "c4.json.gz", C4_VALIDATION="", TASKS=folder / "tasks", PYTHON=sys.executable)
    edit_env(checkout, WORK=folder / "work")
    return checkout


def batch_commands() -> list[tuple[str, ...]]:
    """Return every batch script with its arguments, from blocks and running text."""
    lines = [*LINES, *(span for page in CHECKED for span in inline_commands(page))]
    found = [command for line in lines if (command := our_command(line)) and command.name.startswith("slurm/")]
    return list(
        dict.fromkeys(
            (command.name, *(word for word in command.arguments if word != "--dry-run"))
            for command in found
            if command.arguments
        )
    )


@pytest.mark.parametrize("words", batch_commands(), ids=" ".join)
def test_batch_script_accepts_its_arguments(words: tuple[str, ...], site: Path) -> None:
    done = subprocess.run(
        [str(site / words[0]), "--dry-run", *words[1:]], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_env_is_a_shell_script() -> None:
    for script in (REPOSITORY / "slurm").glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=lambda b: b.page)
def test_python_example_imports_what_exists(block: CodeBlock) -> None:
    compile(block.text, block.page, "exec")
    names: dict[str, Any] = {}
    for line in re.findall(r"^from pause_megatron\S* import .*$", block.text, re.MULTILINE):
        try:
            exec(line, names)
        except (UserError, ModuleNotFoundError) as error:
            if "datatrove" not in str(error):
                raise
            pytest.skip("datatrove is not installed; its example was not checked")


def test_grid_example_is_a_grid(tmp_path: Path) -> None:
    """That of how_to/own_task.md names files of the page: tests/test_own_task_page.py."""
    grids = [block for block in BLOCKS if block.language == "yaml" and "num_pauses_ft:" in block.text]
    examples = [block for block in grids if block.page != "docs/how_to/own_task.md"]
    assert examples
    for number, block in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block.text, encoding="utf-8")
        grid = read_grid(GridConfig(grid=str(file), output=tmp_path / "out"))
        assert grid.models or grid.pretrain


def test_untagged_blocks_with_commands_are_recognised() -> None:
    """A block of another kind must not hide a command of ours."""
    for block in BLOCKS:
        if not block.commands:
            assert not re.search(r"^\$? ?(pause-megatron|python tools/)", block.text, re.MULTILINE), block.page


def test_readme_shows_commands() -> None:
    assert any(page == README.name for page, _ in SHOWN)
