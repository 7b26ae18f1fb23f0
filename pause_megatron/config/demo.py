"""Configuration of ``pause-megatron demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run the whole chain at small size, from raw text to a report on whether pausing helped.

    Six to nine minutes on two cores, about one with --fast. Called again after an interruption it continues where it
    stopped.
    """

    output: Path = Path("demo")
    """Folder for everything the demo makes; the report ends up in its report/ folder."""
    c4: tuple[str, ...] = ()
    """C4 files (.json.gz), as paths or quoted globs, to train on; by default English text that ships with Python."""
    fast: bool = False
    """A few steps of everything: shows that the chain runs, not what it can learn."""
