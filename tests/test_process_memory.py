"""Freed memory that the process keeps is not cleared by the system again."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

PAGE = resource.getpagesize()
MIB = 1 << 20
PROGRAM = """
import resource, sys
from pause_megatron.process_memory import keep_freed_memory
total, largest, size = (int(word) or None for word in sys.argv[1:])
keep_freed_memory(total=total, largest=largest)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    b"x" * size  # not NumPy's array, which would ask for huge pages
fill()
before = faults()
fill()
print(faults() - before)
"""


@pytest.mark.parametrize(
    ("total", "largest", "size", "is_kept"),
    [
        (0, 0, 100 * MIB, True),  # 0: no limit
        (64 * MIB, 32 * MIB, 16 * MIB, True),
        (64 * MIB, 8 * MIB, 16 * MIB, False),
        (1 * MIB, 32 * MIB, 16 * MIB, False),
    ],
)
def test_array_of_the_same_size_uses_the_freed_pages(total: int, largest: int, size: int, is_kept: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, *map(str, (total, largest, size))]
    pages = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (pages < 0.1 * size / PAGE) == is_kept, pages
