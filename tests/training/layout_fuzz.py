"""Random layouts, and changes of layout at a resume, against one process: ``make fuzz-layouts``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pause_megatron.config.parallel import DEVICE_VARIABLE
from pause_megatron.errors import UserError
from tests.training.layout_comparison import Difference, Fuzz, LayoutMismatchError
from tests.training.layout_draws import draw_run


@dataclass
class Report:
    """Outcome of many draws."""

    seed: int
    compared: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    largest: dict[str, Difference] = field(default_factory=dict)
    """Largest differences by precision."""

    def run(self, fuzz: Fuzz, number: int) -> None:
        """Compare draw ``number`` and print the outcome in one line."""
        draw = draw_run(self.seed, number)
        try:
            found = fuzz.compare(draw)
        except UserError as error:
            self.refused[str(error).rpartition(": ")[2][:80]] += 1
            return
        except LayoutMismatchError as error:
            again = f"make fuzz-layouts SEED={self.seed} DRAW={number}"
            self.failures.append(f"draw {number}: {error}\n  {draw!r}\n  repeat it with: {again}")
            print(f"FAILED {self.failures[-1]}", flush=True)
            return
        self.compared += 1
        self.largest[draw.precision] = self.largest.get(draw.precision, Difference()).joined(found)
        print(f"draw {number}: {found}: {draw}", flush=True)

    def summary(self, *, seconds: float, cpu_seconds: float) -> Iterator[str]:
        """Yield the lines of the summary."""
        rate, cpu_rate = (self.compared / max(time / 3600, 1e-9) for time in (seconds, cpu_seconds))
        yield (
            f"seed {self.seed}: {self.compared} draws compared, {self.refused.total()} refused,"
            f" {len(self.failures)} failed in {seconds:.0f} s ({rate:.0f} an hour, {cpu_rate:.0f} a CPU hour)"
        )
        for precision, largest in sorted(self.largest.items()):
            yield f"largest differences in {precision}: {largest}"
        for reason, number in self.refused.most_common():
            yield f"refused {number}: {reason}"
        yield from self.failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run draws until the time limit or Ctrl-C, and print a summary; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000, help="seed (default: from the clock)")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit in minutes (default: 60)")
    parser.add_argument("--draw", type=int, help="run only the draw with this number")
    options = parser.parse_args(arguments)
    os.environ.update({DEVICE_VARIABLE: "cpu", "CUDA_VISIBLE_DEVICES": ""})
    print(f"seed {options.seed}", flush=True)
    report = Report(options.seed)
    numbers = count() if options.draw is None else (options.draw,)
    with tempfile.TemporaryDirectory(prefix="fuzz-layouts-") as folder, Fuzz(Path(folder)) as fuzz:
        began = time.monotonic()
        with suppress(KeyboardInterrupt):
            for number in numbers:
                report.run(fuzz, number)
                if time.monotonic() - began > options.minutes * 60:
                    break
        for line in report.summary(seconds=time.monotonic() - began, cpu_seconds=fuzz.cpu_seconds):
            print(line)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
