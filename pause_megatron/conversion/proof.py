"""The proof that an export computes what the checkpoint computes: their logits, compared position by position.

Both compute in fp32, from the weights as they are in the export: one in bf16 is compared with the checkpoint's weights
rounded to bf16. Small models are compared as a whole, the export as stock transformers loads it; of large ones there is
one layer in memory at a time (:mod:`~pause_megatron.conversion.one_layer`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from pause_megatron.config.conversion import ProofMethod
from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.one_layer import (
    Read,
    hf_logits_by_layer,
    megatron_logits_by_layer,
    megatron_model,
)
from pause_megatron.errors import UserError

PROOF_PAUSE_RATE = 0.1
"""Share of pauses in the sequences that have some; the paper's pretraining rate."""
PROOF_LENGTH = 512
"""Longest proof sequence, tokens."""
LARGEST_WHOLE_PARAMETERS = 500_000_000
"""Models with more parameters are compared layer by layer: whole, they and the export take 8 bytes a parameter."""

Method = Literal["whole", "layers"]


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
    method: Method
    """Whether the models were in memory as a whole, or layer by layer."""
    passed: bool
    """Whether the export is the same model."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return asdict(self)


def proof_sequences(count: int, model: ModelConfig, *, num_tokens: int, pause_id: int) -> torch.Tensor:
    """Random ids below ``num_tokens``, ``[count, length]`` with at least two sequences; the same at every call.

    Sequences 1, 3, ... have ``<pause>`` at a tenth of their positions, at least once, if it is among the tokens; the
    others have none.
    """
    length = min(model.max_position_embeddings, PROOF_LENGTH)
    generator = torch.Generator().manual_seed(0)
    others = torch.tensor([token for token in range(num_tokens) if token != pause_id])
    tokens = others[torch.randint(len(others), (max(count, 2), length), generator=generator)]
    if pause_id >= num_tokens:
        return tokens
    for sequence in tokens[1::2]:
        positions = torch.randperm(length, generator=generator)[: max(int(PROOF_PAUSE_RATE * length), 1)]
        sequence[positions] = pause_id
    return tokens


@torch.no_grad()
def megatron_logits(read: Read, model: ModelConfig, vocab_size: int, tokens: torch.Tensor) -> torch.Tensor:
    """Logits in Megatron-core of the model whose weights ``read`` gives, fp32: ``[count, length, vocab_size]``."""
    with megatron_model(model, vocab_size) as local:
        for item in local.parameters:
            item.parameter.copy_(read(item.name))
        chunk = local.chunks[0].eval()
        positions = torch.arange(tokens.shape[1])[None]
        logits = [chunk(sequence[None], positions, None) for sequence in tokens]
    return torch.cat(logits)[..., :vocab_size].float()


@torch.no_grad()
def hf_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the folder's model as stock transformers loads it, fp32: ``[count, length, vocabulary]``."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return torch.cat([model(sequence[None]).logits for sequence in tokens]).float()


def compare_logits(
    expected: torch.Tensor, found: torch.Tensor, *, tolerance: float, pauses: int, method: Method = "whole"
) -> Verdict:
    """Compare two models' logits, ``[sequences, positions, vocab_size]``."""
    differences, divergences = [], []
    for one, other in zip(expected, found, strict=True):  # a sequence at a time: the logits themselves are large
        differences.append((one - other).abs().max())
        both = F.log_softmax(other, -1), F.log_softmax(one, -1)
        divergences.append(F.kl_div(*both, reduction="none", log_target=True).sum(-1).max())
    difference = float(torch.stack(differences).max())  # not a number if one is not
    return Verdict(
        max_abs_logit_difference=difference,
        max_kl_divergence=float(torch.stack(divergences).max().clamp(min=0)),
        tolerance=tolerance,
        sequences=expected.shape[0],
        positions=expected.shape[0] * expected.shape[1],
        pauses=pauses,
        method=method,
        passed=difference <= tolerance,
    )


def _by_size(model: ModelConfig, vocab_size: int) -> Method:
    return "whole" if model.num_parameters(vocab_size) <= LARGEST_WHOLE_PARAMETERS else "layers"


def prove_export(
    folder: Path,
    read: Read,
    model: ModelConfig,
    *,
    vocab_size: int,
    num_tokens: int,
    pause_id: int,
    sequences: int,
    tolerance: float,
    method: ProofMethod = "auto",
) -> Verdict:
    """Compare the Hugging Face model in ``folder`` with the Megatron-core model whose weights ``read`` gives.

    Args:
        folder: config.json and weights.
        read: gives the Megatron-core parameters of the whole model.
        model: sizes.
        vocab_size: of the Megatron-core model.
        num_tokens: the tokens that both models know, which are those below it.
        pause_id: where sequences are to have it; only if it is among these.
        sequences: how many are compared, see :func:`proof_sequences`.
        tolerance: largest difference of a logit.
        method: as a whole or by layers, or auto: by the model's size.

    Raises :class:`UserError` when a logit differs by more.
    """
    chosen: Method = _by_size(model, vocab_size) if method == "auto" else method
    in_megatron = megatron_logits if chosen == "whole" else megatron_logits_by_layer
    in_hf = hf_logits if chosen == "whole" else hf_logits_by_layer
    tokens = proof_sequences(sequences, model, num_tokens=num_tokens, pause_id=pause_id)
    verdict = compare_logits(
        in_megatron(read, model, vocab_size, tokens)[..., :num_tokens],
        in_hf(folder, tokens)[..., :num_tokens],
        tolerance=tolerance,
        pauses=int((tokens == pause_id).sum()),
        method=chosen,
    )
    if not verdict.passed:
        raise UserError(
            f"the two models are not the same: logits differ by up to {verdict.max_abs_logit_difference:.2e}, more than"
            f" --tolerance {tolerance:.0e}; nothing was written"
        )
    return verdict
