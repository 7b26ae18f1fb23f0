"""Linear layers of one process: the bias added by the matrix product, the weight's gradient added where it belongs.

Megatron-core's layers add biases in a pass of their own, and accumulate gradients inside the matrix product only with
a kernel of Apex. Where a process holds whole matrices, PyTorch's own products do both, on any device. Where
tensor-parallel processes share a matrix, the layers are Megatron-core's.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch.autograd.function import once_differentiable


class ColumnLinear(ColumnParallelLinear):
    """Takes the place of ``ColumnParallelLinear`` in a layer spec."""

    def forward(
        self, input_: torch.Tensor, weight: torch.Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[..., input]`` to ``[..., output]``, and the bias that is still to be added, if any.

        ``weight``, the word embeddings when they are tied, takes its gradient the ordinary way: its hooks are to see
        all of it.
        """
        if self.tp_group.size() > 1:
            output, bias = super().forward(input_, weight, runtime_gather_output)
            return output, bias
        if weight is not None:
            return F.linear(input_, weight, self.bias), None
        return linear(input_, self.weight, self.bias), None


class RowLinear(RowParallelLinear):
    """Takes the place of ``RowParallelLinear`` in a layer spec."""

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[..., input]`` to ``[..., output]``, and the bias that is still to be added, if any."""
        if self.tp_group.size() > 1:
            output, bias = super().forward(input_)
            return output, bias
        return linear(input_, self.weight, self.bias), None


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``rows @ weight.t() + bias``; the gradient of ``weight`` is added to ``weight.main_grad`` where there is one.

    Then autograd has no gradient for ``weight``: hooks on it get None. ``main_grad`` may be of a higher precision.
    """
    output: torch.Tensor = _Linear.apply(rows.flatten(0, -2), weight, bias)
    return output.view(*rows.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.main_grad = getattr(weight, "main_grad", None)  # what a recomputation saves in its stead has no attributes
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        at_rows = _product(gradient, weight.t()) if needs_rows else None
        at_weight = _weight_gradient(gradient, rows, ctx.main_grad) if needs_weight else None
        return at_rows, at_weight, gradient.sum(0) if needs_bias else None


_ONEDNN = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``rows @ weight.t() + bias``.

    PyTorch multiplies bf16 on a CPU with oneDNN, but fp32 with MKL, which is a tenth slower on AMD's processors.
    """
    if _ONEDNN and rows.device.type == "cpu" and rows.dtype == torch.float32 and not torch.compiler.is_compiling():
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return product
    return F.linear(rows, weight, bias)


def _weight_gradient(gradient: torch.Tensor, rows: torch.Tensor, main_grad: torch.Tensor | None) -> torch.Tensor | None:
    """``gradient.t() @ rows``, or None when it has been added to ``main_grad``."""
    if main_grad is None:
        return gradient.t() @ rows
    if torch.compiler.is_compiling():
        _add_product_compiled(main_grad, gradient, rows)
    else:
        _add_product(main_grad, gradient, rows)
    return None


def _add_product(total: torch.Tensor, gradient: torch.Tensor, rows: torch.Tensor) -> None:
    if total.dtype == rows.dtype:
        total.addmm_(gradient.t(), rows)
    else:
        total.add_(gradient.t() @ rows)


_add_product_compiled = torch.library.custom_op(
    "pause_megatron::add_product",
    _add_product,
    mutates_args={"total"},
    schema="(Tensor(a!) total, Tensor gradient, Tensor rows) -> ()",
)
"""In one piece: taken apart, the compiler would put the sum in a place of its own and copy it back."""
