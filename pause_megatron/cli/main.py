"""Entry of ``pause-megatron`` and of the scripts in ``tools/``: parse, run, and turn a user's error into one line."""

from __future__ import annotations

import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pause_megatron
from pause_megatron.children import end_with_parent
from pause_megatron.cli.commands import SUBCOMMANDS, TOOLS, Command
from pause_megatron.config.serialize import flags_of_mapping, read_config_file
from pause_megatron.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_REQUEUE,
    EXIT_USER,
    StoppedEarly,
    UserError,
)
from pause_megatron.log import global_rank
from pause_megatron.parallel.signals import stop_signals_held_back

_OTHER_RANKS_WAIT_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run ``pause-megatron``; returns the exit code (see :mod:`pause_megatron.errors`)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return EXIT_DONE
    if arguments[0] == "--version":
        print(f"pause-megatron {pause_megatron.__version__}")
        return EXIT_DONE
    name, rest = arguments[0], arguments[1:]
    if name not in SUBCOMMANDS:
        print(f"error: unknown command '{name}'; commands: {', '.join(SUBCOMMANDS)}", file=sys.stderr)
        return EXIT_USER
    return run_command(SUBCOMMANDS[name], f"pause-megatron {name}", rest)


def tool_main(script: str) -> int:
    """Run a script of ``tools/`` by its file name; returns the exit code."""
    return run_command(TOOLS[script], script, sys.argv[1:])


def run_command(command: Command, program: str, arguments: list[str]) -> int:
    """Parse ``arguments`` for ``command`` and run it; returns the exit code.

    A :class:`UserError`, a :class:`StoppedEarly` and Ctrl-C become one line.
    """
    end_with_parent()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the libraries warn of what they lack at every import; `python -W` shows it
    rank = global_rank() if command.distributed else 0
    try:
        with stop_signals_held_back() if command.saves_when_asked else nullcontext():
            command.run(parse(command.config_class(), program, arguments))
    except UserError as error:
        if rank:
            # Most errors are every process's: rank 0 says it, and its launcher ends the others while they wait here.
            time.sleep(_OTHER_RANKS_WAIT_SECONDS)
        _say(f"error: {f'rank {rank}: ' if rank else ''}{error}")
        return EXIT_USER
    except StoppedEarly as stopped:  # all processes stop together: rank 0 speaks for them
        if not rank:
            _say(f"{stopped} (exit code {EXIT_REQUEUE})")
        return EXIT_REQUEUE
    except KeyboardInterrupt:
        if not rank:
            _say("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse(config_class: type, program: str, arguments: list[str]) -> Any:
    """Build a ``config_class`` from flags.

    ``--config FILE`` and, where the class has ``PRESETS``, ``--preset NAME`` come first; flags given beside them win,
    in whatever order they are written.
    """
    import tyro

    arguments, file = _take_option(arguments, "--config")
    flags: list[str] = []
    presets: dict[str, dict[str, Any]] = getattr(config_class, "PRESETS", {})
    if presets:
        arguments, preset = _take_option(arguments, "--preset")
        if preset is not None:
            if preset not in presets:
                raise UserError(f"--preset {preset}: unknown; presets: {', '.join(presets)}")
            flags += flags_of_mapping(presets[preset], config_class, f"--preset {preset}")
    if file is not None:
        flags += flags_of_mapping(read_config_file(Path(file)), config_class, f"--config {file}")
    return tyro.cli(
        config_class,
        prog=program,
        description=_description(config_class, presets),
        args=flags + arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _take_option(arguments: list[str], option: str) -> tuple[list[str], str | None]:
    """Remove ``option VALUE`` (or ``option=VALUE``) from the arguments and return what is left, and the value."""
    rest: list[str] = []
    value: str | None = None
    remaining = iter(arguments)
    for argument in remaining:
        if argument == option:
            value = next(remaining, None)
            if value is None:
                raise UserError(f"{option} needs a value")
        elif argument.startswith(option + "="):
            value = argument.removeprefix(option + "=")
        else:
            rest.append(argument)
    return rest, value


def _description(config_class: type, presets: dict[str, Any]) -> str:
    lines = [(config_class.__doc__ or "").strip(), "", "--config FILE  settings from a YAML or JSON file; flags win."]
    if presets:
        lines.append(f"--preset NAME  settings by name ({', '.join(presets)}); --config and flags win.")
    return "\n".join(lines)


def overview() -> str:
    """The text of ``pause-megatron --help``."""
    width = max(len(name) for name in SUBCOMMANDS)
    return "\n".join(
        [
            "usage: pause-megatron COMMAND [FLAGS]",
            "",
            "Pause-train a language model and find out whether pausing helps.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {command.summary}" for name, command in SUBCOMMANDS.items()),
            "",
            "scripts, usable under mpirun and srun:",
            *(f"  tools/{name}  {command.summary}" for name, command in TOOLS.items()),
            "",
            "'pause-megatron COMMAND --help' lists a command's flags with their defaults and units.",
        ]
    )
