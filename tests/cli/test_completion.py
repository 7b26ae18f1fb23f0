"""Shell completion: the scripts are loaded in real shells, which then complete command lines."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pause_megatron.cli.commands import COMMANDS, SUBCOMMANDS
from pause_megatron.cli.flags import flag_parser
from pause_megatron.cli.main import main
from pause_megatron.errors import EXIT_USER

BASH = """\
source {script}
complete -p {program} >/dev/null || exit 1
COMP_WORDS=({words}) COMP_CWORD={position}
_pause_megatron
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the completion scripts ``bash`` and ``zsh``."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh"):
        command = [sys.executable, "-m", "pause_megatron", "completion", shell]
        (folder / shell).write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return folder


def complete_in_bash(script: Path, *words: str) -> list[str]:
    """The completions that bash offers for the last of ``words``."""
    program = BASH.format(
        script=script,
        program=Path(words[0]).name,
        words=" ".join(f"'{word}'" for word in words),
        position=len(words) - 1,
    )
    done = subprocess.run(["bash", "--norc", "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pause-megatron", "pret"], ["pretrain"]),
        (["pause-megatron", ""], [*SUBCOMMANDS, "lm-eval", "check", "completion", "help"]),
        (["/usr/bin/pause-megatron", "gri"], ["grid"]),
        (["pause-megatron", "pretrain", "--num-l"], ["--num-layers"]),
        (["pause-megatron", "pretrain", "--output", "O", "--no-async"], ["--no-async-save"]),
        (["pause-megatron", "pretrain", "--schedule", ""], ["cosine", "linear", "wsd", "constant"]),
        (["pause-megatron", "pretrain", "--schedule", "=", "c"], ["cosine", "constant"]),
        (["pause-megatron", "pretrain", "--schedule", "="], ["cosine", "linear", "wsd", "constant"]),
        (["pause-megatron", "finetune", "--preset", "piqa"], ["piqa-1b", "piqa-130m"]),
        (["pause-megatron", "check", "pretrain", "--num-l"], ["--num-layers"]),
        (["pause-megatron", "check", "pret"], ["pretrain"]),
        (["pause-megatron", "help", "convert_to"], ["convert_to_hf.py"]),
        (["pause-megatron", "completion", ""], ["bash", "zsh"]),
        (["pause-megatron", "pretrain", "--data", "x"], []),
        (["tools/preprocess_c4.py", "--shard"], ["--shard-range"]),
        (["convert_to_hf.py", "--proof", "l"], ["layers"]),
    ],
)
def test_bash_completes(words: list[str], expected: list[str], scripts: Path) -> None:
    assert complete_in_bash(scripts / "bash", *words) == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_completes_every_flag(name: str, scripts: Path) -> None:
    words = ["pause-megatron", name] if name in SUBCOMMANDS else [name]
    assert complete_in_bash(scripts / "bash", *words, "-") == list(
        flag_parser(COMMANDS[name].config_class(), name).options
    )


@pytest.mark.usefixtures("needs_terminals")
def test_bash_offers_files_if_a_flag_has_no_list_of_words(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").touch()
    typed = b"source %s\npause-megatron pretrain --config sett\t" % bytes(scripts / "bash")
    assert b"--config settings.yaml" in typed_into(["bash", "--norc", "-i"], typed, b"settings.yaml", tmp_path)


@pytest.mark.usefixtures("needs_terminals")
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(scripts: Path, tmp_path: Path) -> None:
    load = b"autoload -Uz compinit && compinit -u -D; source %s\n" % bytes(scripts / "zsh")
    for typed, completed in [(b"pret", b"pretrain"), (b"pretrain --schedule w", b"pretrain --schedule wsd")]:
        line = load + b"pause-megatron " + typed + b"\t"
        assert completed in typed_into(["zsh", "-f", "-i"], line, completed, tmp_path)


def typed_into(shell: list[str], typed: bytes, awaited: bytes, folder: Path) -> bytes:
    """Output of an interactive ``shell`` after ``typed``, read until ``awaited`` appears or 20 seconds pass."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="dumb", COLUMNS="200", HISTFILE="/dev/null")
        os.execvp(shell[0], shell)
    try:
        os.write(terminal, typed)
        output, deadline = b"", time.monotonic() + 20
        while awaited not in output and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                output += os.read(terminal, 65536)
        return output
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(child, 0)


def test_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == EXIT_USER
    assert capsys.readouterr().err == "error: completion csh: unknown shell; give bash or zsh\n"
    assert main(["completion"]) == EXIT_USER


def test_completion_imports_nothing_heavy() -> None:
    program = (
        "import sys; from pause_megatron.cli.main import main; main(['completion', 'bash']);"
        "sys.exit(len({'torch', 'transformers', 'numpy', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "_pause_megatron" in done.stdout
