"""The proof that an export computes what the checkpoint computes: their logits, compared position by position."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.errors import UserError
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch

PROOF_PAUSE_RATE = 0.1
"""Share of pauses in the sequences that have some; the paper's pretraining rate."""
PROOF_LENGTH = 512
"""Longest proof sequence, tokens."""
ONE_PROCESS = Layout(tp=1, pp=1, vp=1, dp=1, sequence_parallel=False)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the comparison found."""

    max_abs_logit_difference: float
    """Largest absolute difference of a logit, fp32."""
    max_kl_divergence: float
    """Largest divergence of a position's next-token distribution, nats."""
    tolerance: float
    """What the former was held to."""
    sequences: int
    """Sequences compared; every second one has pauses in it."""
    positions: int
    """Positions compared."""
    pauses: int
    """Pauses among them."""
    passed: bool
    """Whether the export is the same model."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def proof_sequences(count: int, *, length: int, vocab_size: int, pause_id: int) -> torch.Tensor:
    """Random ids over the whole vocabulary, ``[count, length]``, the same at every call.

    Sequences 1, 3, ... have ``<pause>`` at a tenth of their positions, at least once; the others have none.
    """
    generator = torch.Generator().manual_seed(0)
    others = torch.tensor([token for token in range(vocab_size) if token != pause_id])
    tokens = others[torch.randint(len(others), (count, length), generator=generator)]
    for sequence in tokens[1::2]:
        positions = torch.randperm(length, generator=generator)[: max(int(PROOF_PAUSE_RATE * length), 1)]
        sequence[positions] = pause_id
    return tokens


@torch.no_grad()
def megatron_logits(
    reader: CheckpointReader, model: ModelConfig, vocab_size: int, tokens: torch.Tensor
) -> torch.Tensor:
    """Logits of the checkpoint's model in Megatron-core, fp32, one process: ``[count, length, vocab_size]``."""
    initialize_process_groups(detect_launch({}), ONE_PROCESS, seed=0)
    try:
        local = build_local_model(model, ONE_PROCESS, vocab_size=vocab_size, seed=0)
        for item in local.parameters:
            item.parameter.copy_(reader.whole(item.name))
        chunk = local.chunks[0].eval()
        positions = torch.arange(tokens.shape[1])[None]
        logits = [chunk(sequence[None], positions, None) for sequence in tokens]
    finally:
        destroy_process_groups()
    return torch.cat(logits)[..., :vocab_size].float()


@torch.no_grad()
def hf_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the export as stock transformers loads it, fp32: ``[count, length, vocab_size]``."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return torch.cat([model(sequence[None]).logits for sequence in tokens]).float()


def compare_logits(expected: torch.Tensor, found: torch.Tensor, *, tolerance: float, pauses: int) -> Verdict:
    """Compare two models' logits, ``[sequences, positions, vocab_size]``."""
    difference = float((expected - found).abs().max())
    divergence = F.kl_div(F.log_softmax(found, -1), F.log_softmax(expected, -1), reduction="none", log_target=True).sum(
        -1
    )
    return Verdict(
        max_abs_logit_difference=difference,
        max_kl_divergence=float(divergence.max().clamp(min=0)),
        tolerance=tolerance,
        sequences=expected.shape[0],
        positions=expected.shape[0] * expected.shape[1],
        pauses=pauses,
        passed=difference <= tolerance,
    )


def prove_export(
    folder: Path,
    reader: CheckpointReader,
    model: ModelConfig,
    *,
    vocab_size: int,
    pause_id: int,
    sequences: int,
    tolerance: float,
) -> Verdict:
    """Compare the export in ``folder`` with the checkpoint it was made from.

    Raises :class:`UserError` when a logit differs by more than ``tolerance``.
    """
    tokens = proof_sequences(
        max(sequences, 2),
        length=min(model.max_position_embeddings, PROOF_LENGTH),
        vocab_size=vocab_size,
        pause_id=pause_id,
    )
    verdict = compare_logits(
        megatron_logits(reader, model, vocab_size, tokens),
        hf_logits(folder, tokens),
        tolerance=tolerance,
        pauses=int((tokens == pause_id).sum()),
    )
    if not verdict.passed:
        raise UserError(
            f"the export is not the model of {reader.folder}: logits differ by up to"
            f" {verdict.max_abs_logit_difference:.2e}, more than --tolerance {tolerance:.0e}; nothing was written"
        )
    return verdict
