"""One measurement of ``train_step.py``: a JSON job on the command line, its JSON answer as the last line printed.

Sides that are measured in one process alternate step by step, every other round in reverse order, so that what else
the machine does meets them alike; all start from the same weights, and their losses have to agree. On a GPU each is
alone in its process, for its peak memory to be its own.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

OURS, OURS_COMPILED, PEER, PEER_COMPILED = "ours", "ours, compiled", "transformers", "transformers, compiled"
_WARM_UP = 3
"""Steps before the measured ones: PyTorch allocates, AdamW makes its moments, compilers compile."""
_GEMM_SIZE = 8192
_GEMM_REPEATS = 50
_LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class Time:
    """What some steps took."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Time:
        """The clocks, when the device has done all it was told to."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return cls(time.perf_counter(), time.process_time())

    def until(self, end: Time) -> Time:
        """From here to ``end``."""
        return Time(end.wall - self.wall, end.cpu - self.cpu)


def main() -> None:
    """Do the job of the command line."""
    job = json.loads(sys.argv[1])
    answer = gemm_tflops() if job == "gemm" else steps(job)
    print(json.dumps(answer), flush=True)


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of every measured step of every side: ``{"side": {"wall": [...], "cpu": [...], "peak_bytes": ...}}``."""
    from train_sides import Workload, ours, peer

    from pause_megatron.config.model import ModelConfig

    torch.set_num_threads(job["threads"])
    workload = Workload(model=ModelConfig(**job["model"]), **job["workload"])
    built, initial = {}, None
    for side in job["sides"]:
        if side in (OURS, OURS_COMPILED):
            built[side], initial = ours(workload, "always" if side == OURS_COMPILED else "never")
        else:
            built[side] = peer(workload, initial, compiled=side == PEER_COMPILED)
    losses = {side: [step() for _ in range(_WARM_UP)] for side, step in built.items()}
    _compare(losses, workload.precision)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, Any] = {side: {"wall": [], "cpu": [], "losses": losses[side]} for side in built}
    for repeat in range(job["repeats"]):
        for side in list(built)[:: -1 if repeat % 2 else 1]:
            started = Time.now()
            built[side]()
            taken = started.until(Time.now())
            found[side]["wall"].append(taken.wall)
            found[side]["cpu"].append(taken.cpu)
    if torch.cuda.is_available():
        for side in built:
            found[side]["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def _compare(losses: dict[str, list[float]], precision: str) -> None:
    """The sides train the same model: their first losses, before and after the first updates, are about equal."""
    first, *others = losses.values()
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert math.isclose(mine, theirs, rel_tol=_LOSS_TOLERANCE[precision]), losses


def gemm_tflops() -> float:
    """The fastest that this GPU multiplies large bf16 matrices, in TFLOP/s."""
    a, b = (torch.randn(_GEMM_SIZE, _GEMM_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(_GEMM_REPEATS):
        a @ b
    started = Time.now()
    for _ in range(_GEMM_REPEATS):
        a @ b
    seconds = started.until(Time.now()).wall
    return 2 * _GEMM_SIZE**3 * _GEMM_REPEATS / seconds / 1e12


if __name__ == "__main__":
    main()
