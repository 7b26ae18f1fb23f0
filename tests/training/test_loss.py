"""The loss is dropped exactly where the target is <pause>, and averaged over all that is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.one_layer import ONE_PROCESS
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.pauses.loss_mask import loss_mask, pause_runs
from pause_megatron.training.loss import masked_loss
from tests.distributed import run_distributed

PAUSE = 2
SEQUENCE = [5, PAUSE, 7, PAUSE, PAUSE, 9, 11, PAUSE, 4]
"""Inputs are all but the last id, targets all but the first."""
TARGET_IS_PAUSE = [True, False, True, True, False, False, True, False]
MODEL = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=16)


@dataclass(frozen=True)
class Gradients:
    """Gradients of one backward pass, and the expected ones."""

    kept_losses: list[float]
    logit_gradient_is_zero: list[bool]
    loss: float
    expected_loss: float


def backward_through_megatron() -> Gradients:
    """One masked loss of Megatron-core's GPT on :data:`SEQUENCE`, differentiated down to the logits."""
    initialize_process_groups(detect_launch({}), ONE_PROCESS, seed=0)
    try:
        chunk: Any = build_local_model(MODEL, ONE_PROCESS, vocab_size=20, seed=0).chunks[0]
        tokens, labels = torch.tensor([SEQUENCE[:-1]]), torch.tensor([SEQUENCE[1:]])
        mask = loss_mask(labels, PAUSE).float()
        logits, values = [], []

        def keep(_: Any, __: Any, output: Any) -> None:
            output[0].retain_grad()
            logits.append(output[0])
            values.append(output[0].detach().clone())  # the cross-entropy works in place

        chunk.output_layer.register_forward_hook(keep)
        token_losses = chunk(tokens, torch.arange(len(SEQUENCE) - 1)[None], None, labels=labels)
        loss, reported = masked_loss(token_losses, mask, pause_runs(tokens, PAUSE), factor=1 / float(mask.sum()))
        loss.backward()
        by_position = values[0].transpose(0, 1)[0]  # [sequence, batch, vocabulary] to [sequence, vocabulary]
        kept = [i for i, is_pause in enumerate(TARGET_IS_PAUSE) if not is_pause]
        return Gradients(
            kept_losses=(token_losses * mask)[0].tolist(),
            logit_gradient_is_zero=[not gradient.any() for gradient in logits[0].grad.transpose(0, 1)[0]],
            loss=float(reported["loss_sums"].sum()) / len(kept),
            expected_loss=float(F.cross_entropy(by_position[kept], labels[0][kept])),
        )
    finally:
        destroy_process_groups()


def test_loss_is_zero_exactly_where_the_target_is_pause() -> None:
    found = run_distributed(backward_through_megatron, 1)[0]
    assert [loss == 0.0 for loss in found.kept_losses] == TARGET_IS_PAUSE
    assert found.logit_gradient_is_zero == TARGET_IS_PAUSE
    assert abs(found.loss - found.expected_loss) < 1e-6


def test_reported_loss_does_not_share_memory_with_the_one_the_schedule_divides() -> None:
    losses = torch.ones(1, 4)
    loss, reported = masked_loss(losses, torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.int64), factor=1.0)
    loss /= 4
    assert float(reported["loss_sums"].sum()) == 4.0
