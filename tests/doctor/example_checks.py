"""Checks that pass, fail, hang and die, for the tests of the doctor."""

from __future__ import annotations

import os
import signal
import time

from pause_megatron.doctor.check import Check, Figures, Place, Skipped
from pause_megatron.errors import UserError


def passes(place: Place) -> Figures:
    (place.folder / "left-behind").write_text("for later checks")
    return {"found": "all is well", "answer": 42}


def reads(place: Place) -> Figures:
    return {"found": (place.folder / "left-behind").read_text()}


def is_refused(place: Place) -> Figures:
    raise UserError("the machine: is broken; repair it")


def raises(place: Place) -> Figures:
    print("the last words")
    raise RuntimeError("several\nlines")


def does_not_apply(place: Place) -> Figures:
    raise Skipped("no such thing here")


def hangs(place: Place) -> Figures:
    time.sleep(600)
    return {}


def dies(place: Place) -> Figures:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def names_its_rank(place: Place) -> Figures:
    (place.folder / f"rank{os.environ['RANK']}").touch()
    while len(list(place.folder.glob("rank*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)
    rank, size, device = (os.environ[name] for name in ("RANK", "WORLD_SIZE", "PAUSE_MEGATRON_DEVICE"))
    return {"found": f"rank {rank} of {size} on {device}"}


def second_rank_is_refused(place: Place) -> Figures:
    if os.environ["RANK"] == "1":
        raise UserError("rank 1: has no GPU; give it one")
    return hangs(place)


def _check(name: str, function: str, **settings: object) -> Check:
    return Check(name, "an example", f"{__name__}:{function}", **settings)  # type: ignore[arg-type]


CHECKS = (
    _check("passes", "passes"),
    _check("reads", "reads", needs=("passes",)),
    _check("refused", "is_refused"),
    _check("raises", "raises"),
    _check("inapplicable", "does_not_apply"),
    _check("on-gpu", "passes", device="cuda"),
    _check("hangs", "hangs", timeout=6.0),
    _check("dies", "dies"),
    _check("after-refused", "passes", needs=("refused",)),
    _check("ranks", "names_its_rank", ranks=2),
    _check("bad-rank", "second_rank_is_refused", ranks=2),
)
GOOD = (_check("passes", "passes"), _check("reads", "reads", needs=("passes",)), _check("other", "hangs"))
