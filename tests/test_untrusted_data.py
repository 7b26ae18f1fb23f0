"""No module unpickles data, or takes the time of day for a duration."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pause_megatron

PACKAGE = Path(pause_megatron.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
COLLECTIVES = {
    f"{name}_object{suffix}"
    for name in ("all_gather", "gather", "broadcast", "scatter", "send", "recv")
    for suffix in ("", "_list")
}
MPI = {"bcast", "gather", "scatter", "allgather", "alltoall", "send", "recv", "isend", "irecv", "sendrecv", "allreduce"}
"""mpi4py's methods for objects; those for buffers begin with a capital letter."""
LOADERS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Functions that can unpickle, and the argument that forbids it; None: the default forbids it."""
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now"}
RECORDS_THE_TIME = {"preprocess/progress_log.py"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def faults(text: str) -> Iterator[str]:
    """Yield what would unpickle data or read the clock in the source ``text`` of a module."""
    tree = ast.parse(text)
    uses_mpi = "mpi4py" in text
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            yield from ({name.partition(".")[0] for name in modules} & MODULES) | (set(names) & COLLECTIVES)
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr in COLLECTIVES or (uses_mpi and node.attr in MPI):
                yield node.attr
            if f"{owner}.{node.attr}" in CLOCKS:
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in LOADERS:
            argument, safe = LOADERS[name]
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get(argument, str(False if name == "np.load" else None)) != str(safe):
                yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_unpickles_data_or_times_with_the_wall_clock(path: Path) -> None:
    """A process that joins a group, or a file from elsewhere, could run code; and a clock may jump."""
    found = set(faults(path.read_text(encoding="utf-8")))
    if str(path.relative_to(PACKAGE)) in RECORDS_THE_TIME:
        found -= {"time.time"}
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch.distributed as dist\ndist.all_gather_object([], 1)",
        "from torch.distributed import broadcast_object_list",
        "from mpi4py import MPI\nMPI.COMM_WORLD.bcast(1)",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import time\nstarted = time.time()",
    ],
)
def test_each_kind_of_fault_is_found(text: str) -> None:
    assert list(faults(text))


def test_safe_calls_are_allowed() -> None:
    assert not list(faults("import torch, numpy as np\ntorch.load('x', weights_only=True)\nnp.load('x')"))
