"""Marginal rates: what a tool needs for more text. The tools alternate, each on a part and on the whole of a text."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cpu_time import Cost, Spread
from texts import Text

Candidate = Callable[[Text], Cost]


@dataclass(frozen=True)
class Measured:
    """One candidate's runs on the part and on the whole of the text, and the tokens of both."""

    part: tuple[Cost, ...]
    whole: tuple[Cost, ...]
    part_tokens: int
    whole_tokens: int

    @property
    def rates(self) -> list[float]:
        """Tokens for each processor second, of every repeat; not a number where the text is too short to tell."""
        tokens = self.whole_tokens - self.part_tokens
        seconds = (whole.work_seconds - part.work_seconds for part, whole in zip(self.part, self.whole, strict=True))
        return [tokens / taken if taken > 0 else math.nan for taken in seconds]

    @property
    def start_up(self) -> Spread:
        """Processor seconds that no text at all would take."""
        pairs = zip(self.part, self.rates, strict=True)
        return Spread.of([part.cpu_seconds - self.part_tokens / rate for part, rate in pairs])

    @property
    def peaks(self) -> tuple[int, int]:
        """Most memory of one process, in bytes, on the part and on the whole."""
        return max(cost.peak_bytes for cost in self.part), max(cost.peak_bytes for cost in self.whole)


@dataclass(frozen=True)
class Stretch:
    """The part and the whole of a text, and how many tokens they have."""

    part: Text
    whole: Text
    part_tokens: int
    whole_tokens: int


def alternate(label: str, candidates: Mapping[str, Candidate], stretch: Stretch, repeats: int) -> dict[str, Measured]:
    """Run every candidate on part and whole, ``repeats`` times, every other time in reverse order."""
    parts: dict[str, list[Cost]] = {name: [] for name in candidates}
    wholes: dict[str, list[Cost]] = {name: [] for name in candidates}
    for repeat in range(repeats):
        for name in list(candidates)[:: -1 if repeat % 2 else 1]:
            part, whole = candidates[name](stretch.part), candidates[name](stretch.whole)
            parts[name].append(part)
            wholes[name].append(whole)
            print(
                f"{label} {name} {repeat + 1}/{repeats}: {part.work_seconds:.2f} and {whole.work_seconds:.2f} CPU s, "
                f"{whole.peak_bytes / 1e6:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
    return {
        name: Measured(tuple(parts[name]), tuple(wholes[name]), stretch.part_tokens, stretch.whole_tokens)
        for name in candidates
    }
