"""How much memory a process needs."""

from __future__ import annotations

import resource
import sys

import torch


def memory_used() -> int:
    """Bytes: on a GPU the most that tensors took since the last call, else the largest resident set until now."""
    if torch.cuda.is_available():
        peak: int = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
