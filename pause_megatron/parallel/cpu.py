"""Shims with which Megatron-core runs on the CPU, also where the process leaves a GPU unused.

Each shim replaces one call that Megatron-core makes unconditionally.
"""

from types import SimpleNamespace
from typing import Any

import torch

CPU = torch.device("cpu")


def install_cpu_shims() -> None:
    """Redirect Megatron-core's unconditional CUDA calls to the CPU, for the rest of the process. Idempotent."""
    # Buffers of collectives and of pipeline communication are allocated on the "current device".
    torch.cuda.current_device = lambda: CPU  # type: ignore[assignment,return-value]
    # Pipeline communication synchronises after batched sends and receives; gloo has already waited.
    torch.cuda.synchronize = lambda device=None: None
    # The tensor-parallel RNG tracker saves and restores generator states around sequence-parallel regions.
    for module in (torch.cuda, torch.cuda.random):
        module.manual_seed = lambda seed: torch.default_generator.manual_seed(seed)  # type: ignore[attr-defined]
        module.get_rng_state = lambda device=None: torch.get_rng_state()  # type: ignore[attr-defined]
        module.set_rng_state = lambda state, device=None: torch.set_rng_state(state)  # type: ignore[attr-defined]
    # Tied embeddings: the copy on the last stage is zeroed with `weight.data.cuda()`.
    torch.Tensor.cuda = lambda self, *arguments, **keywords: self  # type: ignore[method-assign]
    _count_tokens_on_cpu()


def _count_tokens_on_cpu() -> None:
    """The schedules allocate a token counter with `device="cuda"`; give that one module another `torch.zeros`."""
    from megatron.core.pipeline_parallel import schedules

    def zeros(*size: Any, device: Any = None, **keywords: Any) -> torch.Tensor:
        return torch.zeros(*size, device=CPU if device == "cuda" else device, **keywords)

    schedules.torch = SimpleNamespace(**{**vars(torch), "zeros": zeros})
