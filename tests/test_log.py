"""A run goes on, and ends with its own exit code, when nobody reads its log lines any more."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from pause_megatron import log
sys.stdin.readline()
for number in range(3):
    log.info(f"line {number}")
print("done")
raise SystemExit(85)
"""


def test_a_closed_standard_error_does_not_end_a_run() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr
    child.stderr.close()
    child.stderr = None
    said, _ = child.communicate("\n", timeout=60)
    assert (child.returncode, said) == (85, "done\n")
