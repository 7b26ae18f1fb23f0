"""Starts the daemons of a private cluster, and ends all its processes when the tests end.

Slurm's daemons and job steps detach themselves from their parents, so they do not end with them. But each has the
cluster's configuration in its environment, or the cluster's folder as its current folder. This process waits for the
end of its standard input, which comes when the tests end or are killed, and then finds and kills those processes.
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
    """Start and kill daemons of the cluster in ``folder`` by the lines of standard input, until it ends."""
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
    """Return the processes with ``folder`` as current folder or in ``SLURM_CONF``, except this one."""
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
