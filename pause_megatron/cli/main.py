"""Entry point of ``pause-megatron`` and of the scripts in ``tools/``: parses, runs, and prints errors on one line."""

import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pause_megatron
from pause_megatron import log
from pause_megatron.atomic import sweep
from pause_megatron.children import end_with_parent
from pause_megatron.cli.commands import COMMANDS, SUBCOMMANDS, TOOLS, Command
from pause_megatron.cli.flags import parse, take_log_flags, wrap
from pause_megatron.config.checks import suggestion
from pause_megatron.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_REQUEUE,
    EXIT_USER,
    StoppedEarly,
    UserError,
    exit_code,
    system_error,
)
from pause_megatron.light_imports import without_collection
from pause_megatron.memory_limit import run_within_memory_limit
from pause_megatron.optional_packages import packages_needed_by
from pause_megatron.parallel.signals import stop_signals_held_back

_OTHER_RANKS_WAIT_SECONDS = 15.0
_GENERAL = {
    "help": "print the help of a command or script, for example 'help pretrain'",
    "check": "check the flags of a command or script without running it",
    "completion": "print the completion script for bash or zsh",
}
_HARNESS = "lm-eval"
_PASSED_ON = {_HARNESS: "run lm-evaluation-harness's own command, for '--model pause_megatron' too"}
"""Commands of other programs, which parse their flags themselves."""


def main(arguments: list[str] | None = None) -> int:
    """Run ``pause-megatron``; returns the exit code (see :mod:`pause_megatron.errors`)."""
    log.keep_output_from_failing()
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if name in SUBCOMMANDS:
        return run_command(SUBCOMMANDS[name], f"pause-megatron {name}", rest)
    if name == _HARNESS:
        return _reporting_errors(lambda: _run_harness(rest))
    try:
        if name == "--version":
            print(f"pause-megatron {pause_megatron.__version__}")
        elif name in ("-h", "--help") or (name == "help" and not rest):
            print(overview())
        elif name == "help":
            command, program = _find(rest[0])
            parse(command.config_class(), program, ["--help"])
        elif name == "check":
            command, program = _find(*rest[:1])
            parse(command.config_class(), program, rest[1:])
        elif name == "completion":
            print(_completion(*rest), end="")
        else:
            raise UserError(f"unknown command '{name}'; {suggestion(name, [*SUBCOMMANDS, *_PASSED_ON, *_GENERAL])}")
    except UserError as error:
        log.write_line(f"error: {_shortened(error)}")
        return EXIT_USER
    return EXIT_DONE


def _find(name: str = "") -> tuple[Command, str]:
    """The command or script with this name, and the name to use in messages; ``.py`` may be left out."""
    if name in SUBCOMMANDS:
        return SUBCOMMANDS[name], f"pause-megatron {name}"
    script = f"{name.removesuffix('.py')}.py"
    if script not in TOOLS:
        raise UserError(f"unknown command '{name}'; {suggestion(name, COMMANDS)}")
    return TOOLS[script], script


def _completion(shell: str = "", *_: str) -> str:
    from pause_megatron.cli.completion import completion_script

    if shell not in ("bash", "zsh"):
        raise UserError(f"completion {shell}: unknown shell; give bash or zsh")
    return completion_script(shell)


def tool_main(script: str) -> int:
    """Run a script of ``tools/`` by its file name; returns the exit code."""
    return run_command(TOOLS[script], script, sys.argv[1:])


def run_command(command: Command, program: str, arguments: list[str]) -> int:
    """Parse ``arguments`` for ``command`` and run it; returns the exit code.

    A :class:`UserError`, a :class:`StoppedEarly`, Ctrl-C, and a system that refuses a file or memory become one line on
    standard error.
    """
    log.keep_output_from_failing()
    end_with_parent()
    if command.saves_when_asked:
        return _run(command, program, arguments)
    return run_within_memory_limit(
        lambda: _run(command, program, arguments), clean_up=lambda: _remove_leftovers(command, program, arguments)
    )


def _run(command: Command, program: str, arguments: list[str]) -> int:
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries warn at every import; `python -W default` shows the warnings
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of CUDA's compiler without a GPU

    def run() -> None:
        with stop_signals_held_back() if command.saves_when_asked else nullcontext():
            own = take_log_flags(arguments)
            with packages_needed_by(program):
                command.run(parse(command.config_class(), program, own))
            sys.stdout.flush()

    return _reporting_errors(run, log.global_rank() if command.distributed else 0)


def _run_harness(arguments: list[str]) -> None:
    with packages_needed_by(f"pause-megatron {_HARNESS}"), without_collection():
        from pause_megatron.downstream.harness_command import run_harness
    run_harness(arguments)


def _reporting_errors(run: Callable[[], None], rank: int = 0) -> int:
    """Call ``run`` and return the exit code; an error that the user can fix becomes one line."""
    try:
        run()
    except UserError as error:
        if rank:
            # Most errors occur on all ranks. Wait, so that the launcher ends this rank after rank 0 printed the error.
            time.sleep(_OTHER_RANKS_WAIT_SECONDS)
        log.write_line(f"error: {f'rank {rank}: ' if rank else ''}{_shortened(error)}")
        return exit_code(error)
    except StoppedEarly as stopped:  # all ranks stop together, so only rank 0 prints the reason
        if not rank:
            log.write_line(f"{stopped} (exit code {EXIT_REQUEUE})")
        return EXIT_REQUEUE
    except Exception as error:
        refused = system_error(error)
        if refused is None:
            raise
        log.write_line(f"error: {f'rank {rank}: ' if rank else ''}{refused}")
        return EXIT_USER
    except KeyboardInterrupt:
        if not rank:
            log.write_line("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _remove_leftovers(command: Command, program: str, arguments: list[str]) -> None:
    """Remove what the ended command leaves under temporary names, as the same command would do at its start."""
    with suppress(UserError):  # the command has ended before it has read its flags, and has written nothing
        config = parse(command.config_class(), program, arguments)
        for each in config.each_number() if hasattr(config, "each_number") else [config]:
            if isinstance(output := getattr(each, "output", None), Path):
                sweep(output.parent, output.name)


def _shortened(error: BaseException) -> str:
    """The text of ``error`` without its middle if it is very long, because it quotes a value of a bad file."""
    text = str(error)
    return text if len(text) <= 2000 else f"{text[:1500]} … {text[-400:]}"


def overview() -> str:
    """The text of ``pause-megatron --help``."""
    commands = {name: command.summary for name, command in SUBCOMMANDS.items()} | _PASSED_ON
    lists = {"commands:": commands, "help:": _GENERAL}
    width = shutil.get_terminal_size().columns
    lines = [
        "usage: pause-megatron COMMAND [FLAGS]",
        "",
        "Pause-train a language model and measure whether pauses help.",
    ]
    for title, entries in lists.items():
        lines += ["", title]
        for name, summary in entries.items():
            lines += wrap(f"  {name:<25} {summary}", width, indent=" " * 28)
    scripts = wrap(f"The scripts of tools/ are the same commands: {', '.join(TOOLS)}.", width, indent="")
    return "\n".join([*lines, "", "'pause-megatron COMMAND --help' lists the flags of a command.", *scripts])
