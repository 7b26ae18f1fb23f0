"""Loaded by every Python process of a grid under test: logs its renames, and kills the grid at one of them.

``RENAMES_BELOW`` is the folder of the grid, ``RENAMES_LOG`` the file to log the kinds of renames in, one a line. With
``KILL_AT``, a kind and ``before`` or ``after``, the first process that renames something of that kind kills them all.
"""

import os
import re
import signal
import sys
from typing import Any

FOLDER, LOG = os.environ["RENAMES_BELOW"], os.environ["RENAMES_LOG"]
KIND, _, SIDE = os.environ.get("KILL_AT", "").rpartition(" ")
dying = False


def kind_of(path: str) -> str:
    """Path below the grid's folder, without numbers and the random part of temporary names."""
    return re.sub(r"\d+", "N", re.sub(r"\.[0-9a-f]{8}\.tmp", ".tmp", os.path.relpath(path, FOLDER)))


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    global dying
    if dying:  # the rename is done: this is the next thing that the process does
        dying = False  # killing is an event too
        os.killpg(0, signal.SIGKILL)
    if event == "os.rename" and os.fspath(arguments[1]).startswith(FOLDER):
        kind = kind_of(os.fspath(arguments[1]))
        with open(LOG, "a", encoding="utf-8") as file:
            file.write(f"{kind}\n")
        if kind == KIND:
            if SIDE == "before":
                os.killpg(0, signal.SIGKILL)
            dying = True


sys.addaudithook(hook)
