"""Reader fuzz: damages every kind of file that the project reads, reads it, and counts the outcomes.

Each draw damages one file and must end in the result of the undamaged file (``correct``) or in one line for the user
(``refused``). Any other exception is a ``traceback``, and another result without a word is ``silent``, which is a fault
if the kind has checksums.

    make fuzz-readers DRAWS=2000 SEED=7
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from pause_megatron.errors import UserError
from tests.readers.damage import damaged

OUTCOMES = ("correct", "refused", "traceback", "silent")
SLOWEST_SECONDS = 30
"""A read that takes more processor time counts as a traceback."""
MOST_MEMORY = 4 << 30
"""Bytes that the command may allocate: a size in a file must not decide how much memory is asked for."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file or folder."""

    name: str
    make: Callable[[Path], None]
    """Writes a good folder."""
    read: Callable[[Path], Any]
    """Reads it as a command does; returns all that the command uses, comparable by ``==``."""
    files: tuple[str, ...]
    """Globs of the files that are damaged."""
    checked: tuple[str, ...] = ()
    """Globs of those that have a checksum, so that damage cannot pass in silence."""


@dataclass(frozen=True)
class Fault:
    """A draw that ended in a traceback, or in silence in spite of a checksum."""

    kind: str
    draw: str
    """Seed, file and damage."""
    outcome: str
    details: str


def fuzz(kind: Kind, folder: Path, draws: int, seed: int) -> tuple[Counter[str], list[Fault]]:
    """Damage one file per draw, and read; ``folder`` is an empty folder. Returns counts of outcomes, and faults."""
    (good := folder / "good").mkdir(parents=True)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        kind.make(good)
    expected = _read(kind, good)
    paths = sorted({path for pattern in kind.files for path in good.glob(pattern) if path.is_file()})
    assert paths, kind.name
    counts: Counter[str] = Counter()
    faults = []
    for draw in range(draws):
        random = Random(f"{kind.name}/{seed}/{draw}")
        path = random.choice(paths)
        content = path.read_bytes()
        name, changed = damaged(content, random)
        _replace(path, changed)
        outcome, details = _outcome(kind, good, expected)
        relative = path.relative_to(good)
        is_checked = any(relative.match(pattern) for pattern in kind.checked)
        counts[outcome] += 1
        counts["unexplained"] += outcome == "silent" and is_checked
        if outcome == "traceback" or (outcome == "silent" and is_checked):
            faults.append(Fault(kind.name, f"seed {seed}, draw {draw}: {relative} {name}", outcome, details))
        _replace(path, content)
    assert _read(kind, good) == expected, f"{kind.name}: reading changed the folder"
    return counts, faults


def _replace(path: Path, content: bytes) -> None:
    """Write a new file with the name of ``path``: the old one may still be mapped into memory."""
    path.unlink()
    path.write_bytes(content)


def _read(kind: Kind, folder: Path) -> Any:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return kind.read(folder)


def _outcome(kind: Kind, folder: Path, expected: Any) -> tuple[str, str]:
    try:
        with _time_limit():
            found = _read(kind, folder)
    except UserError as error:
        lines = str(error).splitlines()
        return ("refused", "") if len(lines) == 1 else ("traceback", f"not one line: {lines}")
    except Exception:
        return "traceback", traceback.format_exc()
    return ("correct", "") if found == expected else ("silent", "")


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {SLOWEST_SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SLOWEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main(arguments: Sequence[str]) -> int:
    """Fuzz every kind, print counts and faults, and return 1 if there are faults."""
    from tests.readers.kinds import KINDS

    parser = argparse.ArgumentParser(prog="python -m tests.readers.fuzz", description=__doc__)
    parser.add_argument("--draws", type=int, default=200, help="draws for each kind (default 200)")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6, help="seed (default: the time)")
    parser.add_argument("--kinds", nargs="*", default=[], help="only these kinds (default: all)")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    print(f"seed {options.seed}, {options.draws} draws for each kind")
    print(f"{'kind':<24}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES) + f"{'of it checked':>15}{'seconds':>9}")
    found: list[Fault] = []
    for kind in KINDS:
        if options.kinds and kind.name not in options.kinds:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            counts, faults = fuzz(kind, Path(folder), options.draws, options.seed)
        seconds = time.monotonic() - started
        row = "".join(f"{counts[outcome]:>11}" for outcome in OUTCOMES)
        print(f"{kind.name:<24}{row}{counts['unexplained']:>15}{seconds:>9.1f}", flush=True)
        found += faults
    for fault in found:
        print(f"\n{fault.outcome}: {fault.kind}, {fault.draw}\n{fault.details}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
