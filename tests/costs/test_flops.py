"""The formulas for operations equal PyTorch's count of the real model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packaging.version import Version
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.costs.flops import forward_flops, paper_layer_flops, training_flops
from tests.costs.local_models import MODELS, VOCAB_SIZE, layout, local_model, of_layouts, random_tokens
from tests.distributed import run_distributed

SEQ_LENGTH = 48
RECOMPUTATIONS = [
    layout(),
    layout(recompute_granularity="selective"),
    layout(recompute_granularity="full"),
    layout(recompute_granularity="full", recompute_num_layers=2),
]


def product_flop(rows: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of ``rows @ weight.t()``."""
    return 2 * rows.numel() * weight[0]


CPU_KERNELS: dict[Any, Any] = {
    torch.ops.mkldnn._linear_pointwise: product_flop,
    # The counter has these formulas for the fused attention of GPUs only; the CPU's does the same operations.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop.__wrapped__,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop.__wrapped__,
}


def counted(models: list[ModelConfig], layouts: list[Layout], fused: bool) -> list[tuple[int, int]]:
    """PyTorch's count of operations of a sequence: of the forward pass, and of forward and backward."""
    found = []
    backend = SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH
    tokens, positions, labels = random_tokens(1, SEQ_LENGTH)
    for each in of_layouts(layouts):
        for model in models:
            [chunk] = local_model(model, each).chunks
            with sdpa_kernel(backend), FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
                loss = chunk(tokens, positions, None, labels=labels).sum()
                forward = counter.get_total_flops()
                loss.backward()
            found.append((forward, counter.get_total_flops()))
    return found


def test_model_operations_equal_the_count_with_unfused_attention() -> None:
    models = list(MODELS.values())
    [found] = run_distributed(counted, 1, models, [layout()], False)
    for model, (forward, both) in zip(models, found, strict=True):
        expected = training_flops(model, vocab_size=VOCAB_SIZE, seq_length=SEQ_LENGTH)
        assert (expected.forward.total, expected.model) == (forward, both), model


def test_hardware_operations_equal_the_count_with_fused_attention_and_recomputation() -> None:
    counts_groups = Version(torch.__version__) >= Version("2.12")  # PyTorch's formula for grouped queries
    models = [model for model in MODELS.values() if counts_groups or not model.num_query_groups]
    [found] = run_distributed(counted, 1, models, RECOMPUTATIONS, True)
    cases = [(model, each) for each in RECOMPUTATIONS for model in models]
    for (model, each), (forward, both) in zip(cases, found, strict=True):
        expected = training_flops(
            model, vocab_size=VOCAB_SIZE, seq_length=SEQ_LENGTH, recompute_granularity=each.recompute_granularity
        )
        assert (expected.forward.total, expected.hardware) == (forward, both), (model, each)


def test_the_paper_counts_half_as_many_operations_a_layer() -> None:
    model = ModelConfig(**MODEL_PRESETS["1b"])  # type: ignore[arg-type]
    forward = forward_flops(model, vocab_size=32_000, seq_length=100)
    paper = paper_layer_flops(num_tokens=100, num_heads=32, head_dim=64, hidden_size=2048)
    assert 2 * model.num_layers * paper == forward.total - forward.output


def test_ten_pauses_on_a_prefix_of_100_tokens_cost_about_two_layers_of_the_1b_model() -> None:
    """The paper gives this figure in appendix I."""
    layers = 24
    without, with_pauses = (
        layers * paper_layer_flops(num_tokens=tokens, num_heads=32, head_dim=64, hidden_size=2048)
        for tokens in (100, 110)
    )
    assert 2 < (with_pauses - without) / (without / layers) < 3


def test_gpt3_costs_equal_the_formula_of_megatrons_paper() -> None:
    """Narayanan et al. 2021 (arXiv 2104.04473), appendix: all layers are recomputed, attention is not fused."""
    layers, hidden, seq_length, vocab_size = 96, 12_288, 2048, 51_200
    gpt3 = ModelConfig(
        num_layers=layers, hidden_size=hidden, num_attention_heads=96, max_position_embeddings=seq_length
    )
    flops = training_flops(gpt3, vocab_size=vocab_size, seq_length=seq_length, recompute_granularity="full")
    published = 96 * seq_length * layers * hidden**2
    published *= 1 + seq_length / (6 * hidden) + vocab_size / (16 * layers * hidden)
    assert flops.model + flops.recomputed == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize("preset", ["130m", "1b", "llama-1b"])
def test_short_sequences_cost_six_operations_a_parameter_and_token(preset: str) -> None:
    """The rule of thumb holds for short sequences, whose attention is negligible, without the input embedding."""
    model = ModelConfig(**MODEL_PRESETS[preset])  # type: ignore[arg-type]
    vocab_size = 32_000
    embeddings = vocab_size * model.hidden_size
    embeddings += model.max_position_embeddings * model.hidden_size if model.architecture == "gpt2" else 0
    flops = training_flops(model, vocab_size=vocab_size, seq_length=1)
    assert flops.model == pytest.approx(6 * (model.num_parameters(vocab_size) - embeddings), rel=1e-3)
