"""Cross-entropy and its gradient equal PyTorch's, also with a sharded vocabulary, and reuse the logits' memory."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from pause_megatron.model import cross_entropy
from pause_megatron.model.cross_entropy import vocab_parallel_cross_entropy
from pause_megatron.parallel.launcher import detect_launch
from tests.distributed import run_distributed

SHAPE = (7, 3)
VOCABULARY = 96


def example(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, some of them large, labels, and the weight of each position's loss (some 0, as under a loss mask)."""
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(*SHAPE, VOCABULARY, generator=generator)
    logits[0] += 200
    logits[1, 0, 3] = 60
    labels = torch.randint(VOCABULARY, SHAPE, generator=generator)
    labels[1, 0] = 3
    weights = torch.rand(SHAPE, generator=generator) * (torch.rand(SHAPE, generator=generator) < 0.8)
    return logits.to(dtype), labels, weights


def expected(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses, and the gradient of their weighted sum, in fp64."""
    logits, labels, weights = example(dtype)
    logits = logits.double().requires_grad_()
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(SHAPE)
    (losses * weights).sum().backward()
    return losses.detach(), logits.grad


def computed(columns: slice, group: dist.ProcessGroup | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    logits, labels, weights = example(dtype)
    leaf = logits[..., columns].contiguous().requires_grad_()
    losses = vocab_parallel_cross_entropy(leaf * 1.0, labels, group)
    (losses * weights).sum().backward()
    return losses.detach(), leaf.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_losses_and_gradient_equal_pytorchs(
    dtype: torch.dtype, tolerance: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy._CHUNK_ELEMENTS, "cpu", rows * VOCABULARY)
    losses, gradient = computed(slice(None), None, dtype)
    expected_losses, expected_gradient = expected(dtype)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected_losses, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=1e-7, rtol=tolerance)


def slice_of_the_vocabulary() -> tuple[list[float], list[float]]:
    launch = detect_launch()
    dist.init_process_group("gloo", rank=launch.rank, world_size=launch.world_size)
    width = VOCABULARY // launch.world_size
    own = slice(launch.rank * width, (launch.rank + 1) * width)
    losses, gradient = computed(own, dist.group.WORLD, torch.float32)
    dist.destroy_process_group()
    return losses.flatten().tolist(), gradient.flatten().tolist()


def test_ranks_that_share_the_vocabulary_agree_with_one_rank() -> None:
    expected_losses, expected_gradient = expected()
    for rank, (losses, gradient) in enumerate(run_distributed(slice_of_the_vocabulary, 3)):
        own = expected_gradient.chunk(3, dim=-1)[rank]
        torch.testing.assert_close(torch.tensor(losses).double(), expected_losses.flatten(), atol=2e-6, rtol=1e-6)
        torch.testing.assert_close(torch.tensor(gradient).double(), own.flatten(), atol=1e-7, rtol=1e-5)


def test_gradient_of_a_confident_correct_prediction_is_not_rounded_to_zero() -> None:
    logits = torch.tensor([[9.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    vocab_parallel_cross_entropy(logits * 1.0, torch.tensor([0])).sum().backward()
    error = torch.sigmoid(torch.tensor(-9.0)).item()
    assert logits.grad is not None
    assert logits.grad[0, 0].item() == pytest.approx(-error, rel=2**-7)


def test_gradient_reuses_the_logits_memory() -> None:
    logits, labels, _ = example()
    leaf = logits.requires_grad_()
    own = leaf * 1.0
    loss = vocab_parallel_cross_entropy(own, labels).sum()
    (gradient,) = torch.autograd.grad(loss, own)
    assert gradient.data_ptr() == own.data_ptr()
