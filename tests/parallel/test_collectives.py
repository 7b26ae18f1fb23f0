"""Ranks exchange values as checked JSON, and raise the same errors together."""

from __future__ import annotations

import errno
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from pause_megatron.errors import UserError
from pause_megatron.parallel import collectives
from pause_megatron.parallel.collectives import (
    broadcast_from_rank_0,
    first_of_ranks,
    gather_from_ranks,
    gather_on_rank_0,
    max_over_ranks,
    raise_on_all_ranks,
    run_on_rank_0,
)
from tests.distributed import run_distributed


class Inner(msgspec.Struct, frozen=True):
    """Part of a value."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A value with everything that the ranks exchange."""

    text: str
    place: Path
    part: Inner | None
    shares: dict[str, float]


def example(rank: int) -> Example:
    name = os.fsdecode(b"not UTF-8 \xff") + "\u2028" * 100 * rank
    return Example(text=name, place=Path(name), part=Inner((rank, 2**60)) if rank else None, shares={"a": 0.1 + rank})


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrong_flag() -> None:
    raise UserError("--flag: wrong")


class Malicious:
    """Runs a command in the process that unpickles it."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def message_of(function: Any, *arguments: Any) -> str:
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return ""


def exchange(mark: Path) -> dict[str, Any]:
    """Results of all collectives on this rank."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found: dict[str, Any] = {
        "max": max_over_ranks([rank, -rank]),
        "gathered": gather_from_ranks(example(rank), Example),
        "on rank 0": gather_on_rank_0(example(rank), Example),
        "pairs": gather_from_ranks([((rank, 1), "x" * rank)], list[tuple[tuple[int, int], str]]),
        "broadcast": broadcast_from_rank_0(example(5) if rank == 0 else None, Example),
        "result": run_on_rank_0(lambda: [Path(f"of rank {rank}")], list[Path]),
        "nothing": run_on_rank_0(lambda: None),
        "disk": message_of(run_on_rank_0, full_disk),
        "flag": message_of(run_on_rank_0, wrong_flag),
        "first": first_of_ranks("from 1" if rank else None),
        "failure": message_of(raise_on_all_ranks, "only rank 1 fails" if rank else None),
        "no failure": message_of(raise_on_all_ranks, None),
    }
    own = collectives._encode
    hostile = pickle.dumps(Malicious(mark))
    for name, data in (("another type", b'{"text": 3}'), ("pickle", hostile), ("nested", b"[" * 200_000)):
        collectives._encode = lambda value, data=data: torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if rank == 0:
            collectives._encode = own
        found[name] = message_of(gather_from_ranks, example(rank), Example)
    dist.destroy_process_group()
    return found


def test_values_arrive_and_errors_are_raised_on_all_ranks(tmp_path: Path) -> None:
    for rank, found in enumerate(run_distributed(exchange, 2, tmp_path / "mark")):
        assert found["max"] == [1, 0]
        assert found["gathered"] == [example(0), example(1)]
        assert found["on rank 0"] == ([] if rank else [example(0), example(1)])
        assert found["pairs"] == [[((0, 1), "")], [((1, 1), "x")]]
        assert found["broadcast"] == example(5)
        assert (found["result"], found["nothing"]) == ([Path("of rank 0")], None)
        assert found["disk"] == "a file: No space left on device; free disk space and run the same command again"
        assert (found["flag"], found["first"]) == ("--flag: wrong", "from 1")
        assert (found["failure"], found["no failure"]) == ("only rank 1 fails", "")
        for damage in ("another type", "pickle", "nested"):
            assert found[damage].startswith("rank 1: sent no ")
            assert "\n" not in found[damage]
    assert not (tmp_path / "mark").exists()
