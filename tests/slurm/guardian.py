"""Starts the daemons of a private cluster, and ends everything that belongs to it when whoever started it is gone.

Slurm's daemons and the steps of its jobs detach themselves from their parents, so nothing that is said of parents ends
them. But all have the cluster's configuration in their environment, or its folder as theirs. This process waits for the
end of its standard input, which comes when the tests are done or killed, and then looks for them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.slurm.daemons import daemon_command

_LONGEST_SWEEP_SECONDS = 20.0


def main(folder: Path) -> None:
    """Start and end daemons of the cluster in ``folder`` as the lines of standard input say, until they end."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    for line in sys.stdin:
        action, name = line.split()
        if action == "start":
            with open(folder / f"{name}.out", "ab") as output:
                children[name] = subprocess.Popen(
                    daemon_command(name, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=folder,
                    start_new_session=True,
                )
        else:
            children[name].kill()
            children[name].wait()
        print("done", flush=True)
    deadline = time.monotonic() + _LONGEST_SWEEP_SECONDS
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for child in children.values():
            child.poll()  # else it stays, as a zombie
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """The processes that live in ``folder``, or have it as their ``SLURM_CONF``; without this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            if f"SLURM_CONF={folder}/slurm.conf".encode() in environment or (entry / "cwd").resolve() == folder:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
