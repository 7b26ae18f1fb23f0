"""``python -m pause_megatron.cli.check COMMAND FLAGS``: refuse wrong flags of a command without running it.

For batch scripts, which would otherwise wait in a queue to be told.
"""

from __future__ import annotations

import sys

from pause_megatron.cli.commands import SUBCOMMANDS, TOOLS
from pause_megatron.cli.main import parse
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError


def check(arguments: list[str]) -> int:
    """Parse the flags of a command or of a script of ``tools/``; returns the exit code it would refuse them with."""
    name, flags = arguments[0], arguments[1:]
    try:
        parse({**SUBCOMMANDS, **TOOLS}[name].config_class(), name, flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(check(sys.argv[1:]))
