"""A package that is not installed gives one line: the command or flag that needs it, and the pip command."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.errors import EXIT_USER, UserError
from pause_megatron.optional_packages import install_command, packages_needed_by

BLOCKED = (
    *("transformers", "lm_eval", "peft", "rouge_score", "matplotlib", "jinja2", "scipy", "gigatoken", "submitit"),
    *("numba", "datatrove"),
)
"""Packages of the extras that users need; without them this is the base installation."""
WITHOUT = f"""
import sys
for name in {BLOCKED}:
    sys.modules[name] = None
from pause_megatron.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
FLAGS = {
    "finetune": ["--model", "m", "--task", "gsm8k", "--output", "o", "--num-pauses-ft", "1", "--steps", "1"],
    "evaluate": ["--model", "m", "--task", "gsm8k", "--output", "o.json"],
    "generate": ["--model", "m", "--prompt", "p"],
    "diagnose": ["--model", "m", "--task", "gsm8k", "--output", "o.json"],
    "report": ["--evaluations", "e", "--output", "o"],
    "convert-to-hf": ["--checkpoint", "c", "--output", "o"],
    "convert-from-hf": ["--model", "m", "--output", "o"],
    "grid": ["--grid", "smoke", "--models", "a=m", "--data", "d", "--output", "o"],
}
NEEDS = {
    **dict.fromkeys(("finetune", "evaluate", "generate", "diagnose", "convert-to-hf", "convert-from-hf"), "downstream"),
    "report": "report",
}
"""Command to the extra that it needs before it looks at its inputs."""


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_base_installation_prints_one_line(command: str, tmp_path: pytest.TempPathFactory) -> None:
    """A command either does without the extras, and then complains of its inputs or flags, or names one."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, command, *FLAGS.get(command, ["--unknown-flag"])],
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_USER, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    if command in NEEDS:
        assert done.stderr.startswith(f"error: pause-megatron {command}: needs the package "), done.stderr
        assert done.stderr.endswith(f"which is not installed; run pip install 'pause_megatron[{NEEDS[command]}]'\n")
    else:
        assert "needs the package" not in done.stderr


def test_every_package_of_an_extra_is_known() -> None:
    for package, extra in [
        ("transformers", "downstream"),
        ("lm_eval", "downstream"),
        ("scipy", "report"),
        ("datatrove", "datatrove"),
    ]:
        assert install_command(package) == f"pip install 'pause_megatron[{extra}]'"
    assert install_command("msgspec") == "pip install pause_megatron"
    assert install_command("no_such_package") is None


def test_command_without_an_installation_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert install_command("submitit") == "pip install submitit"


def test_missing_package_is_about_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    message = r"^--executor slurm: needs the package submitit, .*; run pip install 'pause_megatron\[slurm\]'$"
    with pytest.raises(UserError, match=message), packages_needed_by("--executor slurm"):
        import submitit  # noqa: F401


@pytest.mark.parametrize("module", ["no_such_package", "pause_megatron.no_such_module"])
def test_other_missing_modules_are_faults(module: str) -> None:
    with pytest.raises(ModuleNotFoundError), packages_needed_by("--flag"):
        __import__(module)
