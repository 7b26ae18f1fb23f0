"""A command that prints a result, for a test that runs it in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from pause_megatron.cli.commands import Command
from pause_megatron.cli.main import run_command


@dataclass(frozen=True, kw_only=True)
class PrintingConfig:
    """Configuration of the command."""


def print_result(config: PrintingConfig) -> None:
    print("result")


COMMAND = Command(summary="", config=f"{__name__}:PrintingConfig", function=f"{__name__}:print_result")

if __name__ == "__main__":
    sys.exit(run_command(COMMAND, "printing", []))
