"""One all-reduce adds up losses and gradient norms, and takes the largest flags of all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from pause_megatron.parallel.groups import destroy_process_groups
from pause_megatron.training.loss import FIGURES, LONGEST_RUN
from pause_megatron.training.step_report import Flags, StepReport, share_report
from pause_megatron.training.stop_requests import StopRequest
from tests.distributed import run_distributed

CPU = torch.device("cpu")


def shared(cases: list[list[Flags]]) -> tuple[list[StepReport], int]:
    """Share the flags of this rank in each case; rank 0 has losses, and every rank has a squared norm."""
    dist.init_process_group("gloo")
    calls = []
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda *tensors: calls.append(all_reduce(*tensors))
    try:
        rank, found = dist.get_rank(), []
        losses = torch.arange(FIGURES, dtype=torch.float64) if rank == 0 else None
        for flags in cases:
            squares = torch.tensor(rank + 0.5, dtype=torch.float64)
            found.append(share_report(losses, squares, flags[rank], CPU))
        return found, len(calls)
    finally:
        destroy_process_groups()


def test_flags_are_the_largest_and_numbers_are_sums() -> None:
    none, time, term = Flags(), Flags(request=StopRequest.TIME_IS_UP), Flags(request=StopRequest.SIGTERM)
    writing, damaged = Flags(unfinished=1), Flags(unreadable=1)
    cases = [[none, none], [none, term], [time, term], [time, time], [writing, none], [writing, term], [none, damaged]]
    expected = [none, term, term, time, writing, Flags(request=StopRequest.SIGTERM, unfinished=1), damaged]
    for found, calls in run_distributed(shared, 2, cases):
        assert [report.flags for report in found] == expected
        assert calls == len(cases)
        for report in found:
            assert report.squared_norm == 2.0
            assert report.losses.sums == tuple(float(group) for group in range(LONGEST_RUN + 1))
            assert report.losses.pauses == FIGURES - 1
