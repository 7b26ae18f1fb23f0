"""Settings of all tests: they run on the CPU, examples have no deadline, and long files start first."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pause_megatron.config.parallel import DEVICE_VARIABLE

if os.environ.get(DEVICE_VARIABLE) != "cuda":  # which only `make test-gpu` sets
    # Before PyTorch is imported: tests fork, and a fork cannot use CUDA after its parent has asked for GPUs.
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", DEVICE_VARIABLE: "cpu"})

settings.register_profile("no deadlines", deadline=None)  # the machine may be busy
settings.load_profile("no deadlines")

LONG = (
    "tests/slurm/test_disturbances.py",
    "tests/experiments/test_demo.py",
    "tests/experiments/test_smoke.py",
    "tests/experiments/test_grid.py",
    "tests/checkpoint/test_same_layout.py",
    "tests/conversion/test_every_layout.py",
    "tests/downstream/test_nine_tasks.py",
    "tests/training/test_kills.py",
    "tests/model/test_compilation.py",
    "tests/downstream/test_generation.py",
    "tests/training/test_layouts.py",
    "tests/training/test_precision.py",
    "tests/downstream/test_processes.py",
    "tests/downstream/test_finetune.py",
)
"""Files that start first, the longest first; started last, each would keep one process busy after the others."""


assert all((Path(__file__).parents[1] / name).is_file() for name in LONG), "LONG names a file that was moved"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the long files to the front; xdist keeps this order with ``--no-loadscope-reorder``."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(LONG)))


LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def needs_terminals() -> None:
    """Skip a test on a machine without pseudo terminals, such as a container without /dev/pts."""
    try:
        ends = os.openpty()
    except OSError:
        pytest.skip("no pseudo terminals here (/dev/pts); terminals were not checked")
    for end in ends:
        os.close(end)


@pytest.fixture(autouse=True)
def no_launch_is_left() -> Iterator[None]:
    """Fail a test that leaves the variables of a launch behind: a later test would wait for ranks that do not exist."""
    before = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    yield
    left = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    assert left == before
