"""Linear layers that fuse the bias into the matrix product, and add their gradients to ``main_grad`` directly.

Megatron-core adds biases in a separate pass, and needs an Apex kernel to accumulate gradients in the matrix product.
PyTorch's own products do both on any device. With tensor parallelism the layers are Megatron-core's, and their weight
gradients are added here in the place of Apex.

Shape letters: N rows (sequence x batch), I input features, O output features. Weights are ``[O, I]``.
"""

import platform
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, layers
from torch.autograd.function import once_differentiable


class ColumnLinear(ColumnParallelLinear):
    """Replaces ``ColumnParallelLinear`` in a layer spec."""

    def forward(
        self, input_: torch.Tensor, weight: torch.Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map ``[..., I]`` to ``[..., O]``; also return the bias if the caller must still add it, otherwise None.

        ``weight`` is given if it is the tied word embedding. Its gradient takes autograd's ordinary way, because hooks
        on the embedding must see all of it.
        """
        if self.tp_group.size() > 1:
            self.gradient_accumulation_fusion = weight is None and hasattr(self.weight, "main_grad")
            output, bias = super().forward(input_, weight, runtime_gather_output)
            return output, bias
        if weight is not None:
            return F.linear(input_, weight, self.bias), None
        return linear(input_, self.weight, self.bias), None


class RowLinear(RowParallelLinear):
    """Replaces ``RowParallelLinear`` in a layer spec."""

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map ``[..., I]`` to ``[..., O]``; also return the bias if the caller must still add it, otherwise None."""
        if self.tp_group.size() > 1:
            self.gradient_accumulation_fusion = hasattr(self.weight, "main_grad")
            output, bias = super().forward(input_)
            return output, bias
        return linear(input_, self.weight, self.bias), None


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return ``rows @ weight.t() + bias``, ``[..., I]`` to ``[..., O]``.

    If ``weight.main_grad`` exists, the backward pass adds the weight gradient to it, and autograd's own gradient of
    ``weight`` is None; the same holds for ``bias``. ``main_grad`` may have a higher precision, for example fp32 for
    bf16 weights: the gradients are then added in fp32, without being rounded to bf16.
    """
    output: torch.Tensor = _Linear.apply(rows.flatten(0, -2), weight, bias)
    return output.view(*rows.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        # Read main_grad now: under recomputation the saved weight is another tensor without attributes.
        ctx.main_grad = getattr(weight, "main_grad", None)
        ctx.bias_main_grad = getattr(bias, "main_grad", None)
        return product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        # gradient [N, O], weight [O, I], rows [N, I]
        rows_gradient = product(gradient, weight.t()) if needs_rows else None  # [N, O] @ [O, I] -> [N, I]
        weight_gradient = _weight_gradient(gradient, rows, ctx.main_grad) if needs_weight else None
        bias_gradient = _bias_gradient(gradient, ctx.bias_main_grad) if needs_bias else None
        return rows_gradient, weight_gradient, bias_gradient


_ONEDNN = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()


def product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``rows @ weight.t() + bias``.

    On CPUs PyTorch uses oneDNN for bf16 but MKL for fp32, which is a tenth slower on AMD processors.
    """
    if _ONEDNN and rows.device.type == "cpu" and rows.dtype == torch.float32 and not torch.compiler.is_compiling():
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return output
    return F.linear(rows, weight, bias)


def _weight_gradient(gradient: torch.Tensor, rows: torch.Tensor, main_grad: torch.Tensor | None) -> torch.Tensor | None:
    """Return ``gradient.t() @ rows``, ``[O, N] @ [N, I]``; or add it to ``main_grad`` and return None."""
    if main_grad is None:
        return gradient.t() @ rows
    _accumulate(rows, gradient, main_grad)
    return None


def _bias_gradient(gradient: torch.Tensor, main_grad: torch.Tensor | None) -> torch.Tensor | None:
    """Return ``gradient.sum(0)``, ``[N, O]`` to ``[O]``; or add it to ``main_grad`` and return None."""
    if main_grad is None:
        return gradient.sum(0)
    if torch.compiler.is_compiling():
        _add_rows_compiled(main_grad, gradient)
    else:
        _add_rows(main_grad, gradient)
    return None


def _accumulate(rows: torch.Tensor, gradient: torch.Tensor, main_grad: torch.Tensor) -> None:
    """Add ``gradient.t() @ rows`` to ``main_grad``; the signature is Apex's."""
    add = _add_product_compiled if torch.compiler.is_compiling() else add_product
    add(main_grad, gradient, rows)


def add_product(total: torch.Tensor, gradient: torch.Tensor, rows: torch.Tensor) -> None:
    """Add ``gradient.t() @ rows`` to ``total`` in the precision of ``total``, without rounding the product before."""
    if total.dtype == rows.dtype:
        total.addmm_(gradient.t(), rows)
    elif total.is_cuda and torch.version.hip is None:  # cuBLAS reads bf16 and writes fp32
        torch.addmm(total, gradient.t(), rows, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(gradient.t().to(total.dtype), rows.to(total.dtype))


@cache
def _ones(rows: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.ones(rows, 1, dtype=dtype, device=device)


def _add_rows(total: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add all rows of ``gradient`` to ``total``; on GPUs as a product with ones, which is a single kernel."""
    if total.is_cuda:
        add_product(total[:, None], gradient, _ones(len(gradient), gradient.dtype, gradient.device))
    else:
        total.add_(gradient.sum(0, dtype=total.dtype))


_add_product_compiled = torch.library.custom_op(
    "pause_megatron::add_product",
    add_product,
    mutates_args={"total"},
    schema="(Tensor(a!) total, Tensor gradient, Tensor rows) -> ()",
)
"""One opaque operation: otherwise the compiler would allocate the sum separately and copy it back."""
_add_rows_compiled = torch.library.custom_op(
    "pause_megatron::add_rows", _add_rows, mutates_args={"total"}, schema="(Tensor(a!) total, Tensor gradient) -> ()"
)
"""The same: the compiler would also need two kernels for a sum over this number of rows."""

# Megatron-core calls these two if gradient_accumulation_fusion is set.
layers.fused_weight_gradient_mlp_cuda = SimpleNamespace(
    wgrad_gemm_accum_fp32=_accumulate, wgrad_gemm_accum_fp16=_accumulate
)
