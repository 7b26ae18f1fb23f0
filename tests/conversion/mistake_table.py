"""Print how much each mistake changes the logits, by the length of the check.

python -m tests.conversion.mistake_table [FAMILY ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conversion.mistake_comparison import compare_with_mistakes
from tests.conversion.mistakes import FAMILIES

LENGTHS = ((2, 8), (2, 16), (2, 64), (4, 512))
"""Sequences and tokens of each, in the columns of the table."""


def main() -> None:
    """Print the table."""
    print("| family | mistake | refused by |", *(f"{count} x {length} |" for count, length in LENGTHS))
    print("| --- | --- | --- |", *("---: |" for _ in LENGTHS))
    for family in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            for name, differences, refusal in compare_with_mistakes(family, LENGTHS, Path(folder)):
                print(f"| {family} | {name} | {refusal} |", *(f"{each:.1e} |" for each in differences), flush=True)


if __name__ == "__main__":
    main()
