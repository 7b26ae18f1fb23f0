"""Linear layers equal PyTorch's, and add their gradients to ``main_grad``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.model.gpt import build_local_model
from pause_megatron.model.linear import linear
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from tests.distributed import run_distributed
from tests.training.runs import GPT2, VOCAB_SIZE, Run

SEQUENCE, BATCH, INPUT, OUTPUT = 5, 3, 8, 12


def tensors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.nn.Parameter, torch.nn.Parameter]:
    """Input, weight and bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = (SEQUENCE, BATCH, INPUT), (OUTPUT, INPUT), (OUTPUT,)
    rows, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return rows.requires_grad_(), torch.nn.Parameter(weight), torch.nn.Parameter(bias)


def upstream(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SEQUENCE, BATCH, OUTPUT, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("with_bias", [True, False])
def test_output_and_gradients_equal_pytorchs(with_bias: bool) -> None:
    rows, weight, bias = tensors()
    inputs = (rows, weight, bias) if with_bias else (rows, weight)
    output = linear(rows, weight, bias if with_bias else None)
    expected = F.linear(rows, weight, bias if with_bias else None)
    torch.testing.assert_close(output, expected)
    found = torch.autograd.grad(output, inputs, upstream())
    for ours, theirs in zip(found, torch.autograd.grad(expected, inputs, upstream()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("dtype", "main_dtype"), [("float32", "float32"), ("bfloat16", "float32")])
def test_gradient_is_added_only_to_main_grad(dtype: str, main_dtype: str) -> None:
    rows, weight, bias = tensors(getattr(torch, dtype))
    weight.main_grad = torch.ones(OUTPUT, INPUT, dtype=getattr(torch, main_dtype))
    expected = upstream(rows.dtype).flatten(0, 1).to(weight.main_grad.dtype).t() @ rows.detach().flatten(0, 1).float()
    for _ in range(2):
        linear(rows, weight, bias).backward(upstream(rows.dtype))
    torch.testing.assert_close(weight.main_grad, 1 + 2 * expected)
    assert weight.grad is None
    assert bias.grad is not None, "bias has no main_grad"
    bias.main_grad, bias.grad = torch.ones(OUTPUT, dtype=weight.main_grad.dtype), None
    linear(rows, weight, bias).backward(upstream(rows.dtype))
    torch.testing.assert_close(bias.main_grad, 1 + upstream(rows.dtype).flatten(0, 1).to(bias.main_grad.dtype).sum(0))
    assert bias.grad is None


def test_gradient_under_recomputation_is_added_to_main_grad() -> None:
    rows, weight, bias = tensors()
    weight.main_grad = torch.zeros(OUTPUT, INPUT)
    output = torch.utils.checkpoint.checkpoint(linear, rows, weight, bias, use_reentrant=False)
    output.backward(upstream())
    assert weight.grad is None
    torch.testing.assert_close(weight.main_grad, torch.autograd.grad(F.linear(rows, weight), weight, upstream())[0])


def test_small_gradients_are_added_to_fp32_without_rounding_them() -> None:
    rows, weight, bias = tensors(torch.bfloat16)
    weight.main_grad, bias.main_grad = torch.zeros(OUTPUT, INPUT), torch.zeros(OUTPUT)
    exact, rounded = torch.zeros(OUTPUT, INPUT, dtype=torch.float64), torch.zeros(OUTPUT, INPUT)
    exact_bias = torch.zeros(OUTPUT, dtype=torch.float64)
    for microbatch in range(200):
        gradient = 1e-4 * torch.randn(SEQUENCE, BATCH, OUTPUT, generator=torch.Generator().manual_seed(microbatch))
        gradient = gradient.bfloat16()
        linear(rows, weight, bias).backward(gradient)
        exact_bias += gradient.double().flatten(0, 1).sum(0)
        product = gradient.double().flatten(0, 1).t() @ rows.detach().double().flatten(0, 1)
        exact += product
        rounded += product.bfloat16()  # each product as a bf16 gradient
    error, error_of_rounding = ((found - exact).abs().max().item() for found in (weight.main_grad, rounded))
    scale = exact.abs().max().item()
    assert error < 1e-6 * scale
    assert (bias.main_grad - exact_bias).abs().max().item() < 1e-6 * exact_bias.abs().max().item()
    assert error_of_rounding > 1e-4 * scale, "the test sees no difference"


def errors_under_tensor_parallelism() -> list[float]:
    """Relative errors of weight gradients that are added to fp32 in a column-parallel and a row-parallel layer."""
    file, parallel = Run().deepspeed_file, ParallelConfig(tensor_model_parallel_size=2)
    layout = resolve_layout(parallel, world_size=2, model=GPT2, vocab_size=VOCAB_SIZE, deepspeed=file)
    initialize_process_groups(detect_launch(), layout, seed=0)
    chunk = build_local_model(GPT2, layout, vocab_size=VOCAB_SIZE, seed=0).chunks[0].bfloat16()
    found = []
    for layer in (chunk.decoder.layers[0].mlp.linear_fc1, chunk.decoder.layers[0].mlp.linear_fc2):
        weight = layer.weight
        weight.main_grad = torch.zeros(weight.shape)
        rows = torch.randn(SEQUENCE, BATCH, weight.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
        exact = torch.zeros(weight.shape, dtype=torch.float64)
        for microbatch in range(50):
            generator = torch.Generator().manual_seed(microbatch)
            gradient = (1e-4 * torch.randn(SEQUENCE, BATCH, weight.shape[0], generator=generator)).bfloat16()
            layer(rows)[0].backward(gradient)
            exact += gradient.double().flatten(0, 1).t() @ rows.double().flatten(0, 1)
        assert weight.grad is None
        found.append(((weight.main_grad - exact).abs().max() / exact.abs().max()).item())
    destroy_process_groups()
    return found


def test_tensor_parallel_layers_add_their_weight_gradients_without_rounding_them() -> None:
    for errors in run_distributed(errors_under_tensor_parallelism, 2):
        assert max(errors) < 1e-6
