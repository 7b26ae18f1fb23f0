"""The loss is dropped exactly where the target is <pause>, and averaged over all that is left."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.one_layer import ONE_PROCESS
from pause_megatron.data.batches import Batch
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.loss import LONGEST_RUN, Losses, count_losses, masked_loss
from tests.distributed import run_distributed

PAUSE = 2
SEQUENCE = [5, PAUSE, 7, PAUSE, PAUSE, 9, 11, PAUSE, 4]
"""Inputs are all but the last id, targets all but the first."""
TARGET_IS_PAUSE = [True, False, True, True, False, False, True, False]
MODEL = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=16)


@dataclass(frozen=True)
class Gradients:
    """Gradients of one backward pass, and the expected ones."""

    logit_gradient_is_zero: list[bool]
    loss: float
    """As reported."""
    differentiated_loss: float
    """Times tokens per valid target."""
    expected_loss: float


def backward_through_megatron() -> Gradients:
    """One masked loss of Megatron-core's GPT on :data:`SEQUENCE`, differentiated down to the logits."""
    initialize_process_groups(detect_launch({}), ONE_PROCESS, seed=0)
    try:
        chunk: Any = build_local_model(MODEL, ONE_PROCESS, vocab_size=20, seed=0).chunks[0]
        [microbatch] = batch = Batch.of(torch.tensor([[SEQUENCE]]), PAUSE)
        logits, values = [], []

        def keep(_: Any, __: Any, output: Any) -> None:
            output[0].retain_grad()
            logits.append(output[0])
            values.append(output[0].detach().clone())  # the cross-entropy works in place

        chunk.output_layer.register_forward_hook(keep)
        token_losses = chunk(microbatch.tokens, microbatch.position_ids, None, labels=microbatch.labels)
        loss, _, reported = masked_loss(token_losses, microbatch.loss_weights)
        loss.backward()
        losses = Losses.of(count_losses(reported[None], batch).tolist())
        by_position = values[0].transpose(0, 1)[0]  # [sequence, batch, vocabulary] to [sequence, vocabulary]
        kept = [i for i, is_pause in enumerate(TARGET_IS_PAUSE) if not is_pause]
        return Gradients(
            logit_gradient_is_zero=[not gradient.any() for gradient in logits[0].grad.transpose(0, 1)[0]],
            loss=losses.mean,
            differentiated_loss=float(loss) * len(TARGET_IS_PAUSE) / len(kept),
            expected_loss=float(F.cross_entropy(by_position[kept], microbatch.labels[0][kept])),
        )
    finally:
        destroy_process_groups()


def test_loss_is_dropped_exactly_where_the_target_is_pause() -> None:
    found = run_distributed(backward_through_megatron, 1)[0]
    assert found.logit_gradient_is_zero == TARGET_IS_PAUSE
    assert abs(found.loss - found.expected_loss) < 1e-6
    assert abs(found.differentiated_loss - found.expected_loss) < 1e-6


def test_losses_are_grouped_by_the_pauses_before_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(3, 20, (2, 3, 51), generator=generator)
    samples[torch.rand(samples.shape, generator=generator) < 0.6] = PAUSE
    samples[0, 0] = PAUSE
    samples[1, 1, :20], samples[1, 1, 20] = PAUSE, 5  # a run longer than the longest group
    batch = Batch.of(samples, PAUSE)
    token_losses = torch.rand(2, 3, 50, generator=generator)
    sums, counts, pauses = [0.0] * (LONGEST_RUN + 1), [0] * (LONGEST_RUN + 1), 0
    for sequence, losses in zip(samples.flatten(0, 1).tolist(), token_losses.flatten(0, 1).tolist(), strict=True):
        run = 0
        for token, label, loss in zip(sequence[:-1], sequence[1:], losses, strict=True):
            run = run + 1 if token == PAUSE else 0
            pauses += token == PAUSE
            if label != PAUSE:
                sums[min(run, LONGEST_RUN)] += loss
                counts[min(run, LONGEST_RUN)] += 1
    found = Losses.of(count_losses(token_losses, batch).tolist())
    assert found.sums == pytest.approx(sums, rel=1e-9)
    assert (found.counts, found.pauses) == (tuple(counts), pauses)
    assert min(counts[0], counts[LONGEST_RUN]) > 0


def test_losses_of_pause_targets_may_be_anything() -> None:
    batch = Batch.of(torch.tensor([[[5, PAUSE, 7]]]), PAUSE)
    found = Losses.of(count_losses(torch.tensor([[[math.nan, 2.0]]]), batch).tolist())
    assert found.mean == 2.0
