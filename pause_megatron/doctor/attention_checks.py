"""Checks of PyTorch's attention kernels against the formula in fp32, forward and backward."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.doctor.check import Figures, Place
from pause_megatron.errors import UserError
from pause_megatron.model.attention import attention_kernel
from pause_megatron.parallel.process_device import device

_KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest difference of an output or gradient relative to the largest value."""
_SHAPE = (1, 8, 256, 64)
"""Sequences, query heads, positions, head size."""
_GROUPS = (8, 2)
"""Key/value heads: one for each query head, and grouped queries."""


def kernels(place: Place) -> Figures:
    """Compare each kernel that accepts the shape with the formula, and name those that PyTorch chooses for presets."""
    differences: dict[str, float] = {}
    for dtype, tolerance in _TOLERANCES.items():
        for groups in _GROUPS:
            inputs = _inputs(groups)
            expected = _with_gradients(_formula, [tensor.detach().requires_grad_() for tensor in inputs])
            for kernel in _KERNELS:
                if (found := _by_kernel(kernel, inputs, dtype)) is None:
                    continue
                difference = max(_relative(one, other) for one, other in zip(found, expected, strict=True))
                name = f"{_name(kernel)} {str(dtype).removeprefix('torch.')}{' grouped' if groups < _SHAPE[1] else ''}"
                differences[name] = difference
                if not difference <= tolerance:
                    raise UserError(
                        f"attention by {name}: differs from the formula by {difference:.1e} of the largest value, more"
                        f" than {tolerance:.0e}; update PyTorch or the driver, and report it with doctor.json"
                    )
    chosen = {
        name: attention_kernel(
            ModelConfig(**MODEL_PRESETS[name]),  # type: ignore[arg-type]
            seq_length=2048,
            dtype=torch.bfloat16,
            device=device(),
        )
        for name in ("130m", "1b")
    }
    names = ", ".join(dict.fromkeys(name.split()[0] for name in differences))
    choices = ", ".join(f"{kernel} for {name}" for name, kernel in chosen.items())
    return {"found": f"right: {names}; PyTorch chooses {choices} in bf16", "differences": differences, "chosen": chosen}


def _inputs(groups: int) -> list[torch.Tensor]:
    """Query, key, value and the gradient of the output, in fp32, each [sequences, heads, positions, head size]."""
    generator = torch.Generator().manual_seed(groups)
    sequences, heads, positions, size = _SHAPE
    counts = (heads, groups, groups, heads)
    return [torch.randn(sequences, count, positions, size, generator=generator).to(device()) for count in counts]


def _by_kernel(kernel: SDPBackend, inputs: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor] | None:
    """Output and gradients by ``kernel`` in ``dtype``; None if it does not accept the inputs."""

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        grouped = key.shape[1] != query.shape[1]
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)

    try:
        with sdpa_kernel(kernel):
            return _with_gradients(attention, [tensor.detach().to(dtype).requires_grad_() for tensor in inputs])
    except RuntimeError as error:
        if "No available kernel" in str(error) or "No viable backend" in str(error):
            return None
        raise


def _formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention by its definition."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.mT / query.shape[-1] ** 0.5  # [sequences, heads, query positions, key positions]
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    weights: torch.Tensor = scores.masked_fill(later, float("-inf")).softmax(-1)
    return weights @ value


def _with_gradients(attention: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Output of ``attention``, and the gradients of query, key and value."""
    *operands, gradient = inputs
    output = attention(*operands)
    return [output.detach(), *torch.autograd.grad(output, operands, gradient.detach())]


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).abs().max() / expected.abs().max())


def _name(kernel: SDPBackend) -> str:
    return kernel.name.removesuffix("_ATTENTION").lower()
