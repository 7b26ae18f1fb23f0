"""Run a command under several limits of memory: ``python -m tests.limited_command NAME MEGABYTES,... FLAGS``.

Each limit is that many MB above the memory of the process after its imports. Prints a JSON line for each: the exit code
and standard error. Stops when the command succeeds.
"""

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from pkgutil import resolve_name

from pause_megatron.cli.commands import COMMANDS
from pause_megatron.cli.main import run_command
from pause_megatron.errors import EXIT_DONE


def address_space() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")]
    return int(line.split()[1]) << 10


def run_limited(name: str, megabytes: int, flags: list[str]) -> tuple[int, str]:
    with tempfile.NamedTemporaryFile() as file:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.dup2(file.fileno(), 2)
                limit = address_space() + (megabytes << 20)
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                code = run_command(COMMANDS[name], name, flags)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, Path(file.name).read_text(errors="replace")


if __name__ == "__main__":
    command, limits, *rest = sys.argv[1:]
    resolve_name(COMMANDS[command].function)
    for each in limits.split(","):
        result = run_limited(command, int(each), rest)
        print(json.dumps(result), flush=True)
        if result[0] == EXIT_DONE:
            break
