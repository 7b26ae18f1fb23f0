"""Checks of ranks together: they meet, each has its own GPU, and collectives work on both kinds of memory."""

import os
import re
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from pause_megatron.config.parallel import Layout
from pause_megatron.doctor.check import Figures, Place
from pause_megatron.errors import UserError
from pause_megatron.parallel.gloo_interface import VARIABLE
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.parallel.process_device import gather_devices

_ELEMENTS = 32 * 2**20
_REPEATS = 10


def meet(place: Place) -> Figures:
    """Form a group of all ranks, refuse shared GPUs, and all-reduce with gloo and, on GPUs, with NCCL."""
    launch = detect_launch()
    layout = Layout(tp=1, pp=1, vp=1, dp=launch.world_size, sequence_parallel=False)
    initialize_process_groups(launch, layout, seed=0, timeout=timedelta(minutes=1))
    try:
        devices = gather_devices()
        _all_reduce(launch.world_size, torch.device("cpu"), elements=2)
        found = f"{launch}: {', '.join(sorted({item.name for item in devices}))}; gloo over {os.environ.get(VARIABLE)}"
        figures: Figures = {"ranks": launch.world_size, "devices": [item.name for item in devices]}
        if device().type == "cuda":
            version = ".".join(map(str, torch.cuda.nccl.version()))
            rate = _all_reduce(launch.world_size, device(), elements=_ELEMENTS)
            figures |= {"nccl": version, "library": _loaded_nccl(), "all_reduce_gb_per_s": rate}
            found += f"; NCCL {version} ({figures['library']}) all-reduces {rate:.1f} GB/s"
        return {"found": found, **figures}
    finally:
        destroy_process_groups()


def _all_reduce(world_size: int, place: torch.device, *, elements: int) -> float:
    """All-reduce fp32 numbers, check the sum, and return the rate in GB/s of one rank's tensor."""
    for repeat in range(_REPEATS + 1):
        if repeat == 1:  # the first one connects the ranks
            started = time.monotonic()
        values = torch.full((elements,), float(dist.get_rank() + 1), device=place)
        dist.all_reduce(values)
        if place.type == "cuda":
            torch.cuda.synchronize()
    seconds = time.monotonic() - started
    expected, last = world_size * (world_size + 1) / 2, float(values[-1])
    if last != expected:
        raise UserError(
            f"all-reduce on {place.type}: the ranks' sum is {last}, not {expected}; run again with NCCL_DEBUG=INFO, and"
            " with NCCL_P2P_DISABLE=1 to find out whether the link between the GPUs is the reason"
        )
    return elements * 4 * _REPEATS / seconds / 1e9


def _loaded_nccl() -> str:
    """Return the file of NCCL that this process has loaded; empty if it is part of PyTorch's own library."""
    maps = Path("/proc/self/maps")
    found = re.search(r"/\S*libnccl\.so\S*", maps.read_text(encoding="utf-8")) if maps.exists() else None
    return found[0] if found else "built in"
