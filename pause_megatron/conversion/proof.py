"""Check that an export computes the same as its checkpoint, by comparing logits position by position.

Both models compute in fp32 from the weights as they are in the export. For example, an export in bf16 is compared with
the checkpoint's weights rounded to bf16.

The Hugging Face side is always loaded by stock transformers, never by this project's reader of weights, whose mistakes
the comparison would otherwise not see.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from pause_megatron.config.conversion import ComparisonConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.one_layer import Read, megatron_logits_by_layer, megatron_model
from pause_megatron.errors import UserError, one_line, system_error
from pause_megatron.pauses.positions import shared_positions
from pause_megatron.records.conversion import LogitComparison

PROOF_PAUSE_RATE = 0.1
"""Share of pauses in the sequences that contain pauses; the paper's pretraining rate."""
PROOF_LENGTH = 512
"""Longest compared sequence, in tokens."""
LARGEST_WHOLE_PARAMETERS = 500_000_000
"""Larger models are compared layer by layer: complete, the model and its export take 8 bytes per parameter."""

Method = Literal["whole", "layers"]


def proof_sequences(count: int, model: ModelConfig, *, num_tokens: int, pause_ids: Sequence[int]) -> torch.Tensor:
    """Random ids below ``num_tokens``, shape ``[count, length]`` with at least two sequences; the same at every call.

    Sequences 1, 3, ... have pauses at a tenth of their positions (at least one, and one of each of distinct pauses), if
    ``pause_ids`` are below ``num_tokens``. The other sequences have no pause.
    """
    length = min(model.max_position_embeddings, PROOF_LENGTH)
    generator = torch.Generator().manual_seed(0)
    others = torch.tensor([token for token in range(num_tokens) if token not in pause_ids])
    tokens = others[torch.randint(len(others), (max(count, 2), length), generator=generator)]
    if pause_ids[-1] >= num_tokens:
        return tokens
    for sequence in tokens[1::2]:
        number = max(int(PROOF_PAUSE_RATE * length), len(pause_ids))
        positions = torch.randperm(length, generator=generator)[:number]
        sequence[positions] = torch.tensor(pause_ids).repeat(number)[: len(positions)]
    return tokens


@torch.no_grad()
def megatron_logits(
    read: Read, model: ModelConfig, vocab_size: int, tokens: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits of the Megatron-core model with the weights from ``read``, fp32: ``[count, length, vocab_size]``.

    ``positions`` are the position indices of ``tokens``, ``[count, length]``; None: 0, 1, 2, ...
    """
    positions = torch.arange(tokens.shape[1]).expand_as(tokens) if positions is None else positions
    with megatron_model(model, vocab_size) as local:
        for item in local.parameters:
            item.parameter.copy_(read(item.name))
        chunk = local.chunks[0].eval()
        # [1, length, padded vocab_size] each
        logits = [chunk(ids[None], of_one[None], None) for ids, of_one in zip(tokens, positions, strict=True)]
    return torch.cat(logits)[..., :vocab_size].float()


@torch.no_grad()
def hf_logits(
    folder: Path, tokens: torch.Tensor, method: Method = "whole", positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits of the folder's model as stock transformers loads it, fp32: ``[count, length, vocab_size]``.

    ``positions`` are passed as ``position_ids``, ``[count, length]``; None: those of stock transformers.

    With "layers" the weights stay on disk, and transformers reads those of a layer when it computes the layer.

    Raises :class:`UserError` if transformers cannot load it, or if tensors are missing, unknown or of another shape.
    """
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            trust_remote_code=False,
            attn_implementation="sdpa",
            device_map={"": "disk"} if method == "layers" else None,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many kinds
        if refused := system_error(error):
            raise refused from error
        raise UserError(f"{folder}: transformers cannot load it ({one_line(error)}); fetch the model again") from error
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in loading[key]):
            raise UserError(
                f"{folder}: transformers reports {key.replace('_', ' ')}, the first of {len(names)} is {names[0]};"
                " fetch the model again"
            )
    size = len(tokens) if method == "layers" else 1  # each batch reads all weights on disk
    inputs: list[dict[str, torch.Tensor]] = [{"input_ids": batch} for batch in tokens.split(size)]
    if positions is not None:
        for one, of_batch in zip(inputs, positions.split(size), strict=True):
            # Without a mask transformers takes repeated positions for several sequences in a row.
            one |= {"position_ids": of_batch, "attention_mask": torch.ones_like(of_batch)}
    return torch.cat([model.eval()(**one).logits for one in inputs]).float()


def compare_logits(
    expected: torch.Tensor, found: torch.Tensor, *, tolerance: float, pauses: int, method: Method = "whole"
) -> LogitComparison:
    """Compare the logits of two models, both ``[sequences, positions, vocab_size]``."""
    differences, divergences = [], []
    for one, other in zip(expected, found, strict=True):  # one sequence at a time bounds the memory of the differences
        differences.append((one - other).abs().max())
        both = F.log_softmax(other, -1), F.log_softmax(one, -1)
        divergences.append(F.kl_div(*both, reduction="none", log_target=True).sum(-1).max())
    difference = float(torch.stack(differences).max())  # NaN if any logit is NaN, and NaN <= tolerance is False
    return LogitComparison(
        max_abs_logit_difference=difference,
        max_kl_divergence=float(torch.stack(divergences).max().clamp(min=0)),
        tolerance=tolerance,
        sequences=expected.shape[0],
        positions=expected.shape[0] * expected.shape[1],
        pauses=pauses,
        method=method,
        passed=difference <= tolerance,
    )


def prove_export(
    folder: Path,
    read: Read,
    model: ModelConfig,
    *,
    vocab_size: int,
    num_tokens: int,
    pause_ids: Sequence[int],
    config: ComparisonConfig,
) -> LogitComparison:
    """Compare the Hugging Face model in ``folder`` with the Megatron-core model that has the weights from ``read``.

    The Megatron-core model has ``vocab_size`` rows without padding. Only the logits of the first ``num_tokens`` ids are
    compared, which both models know.

    Raises :class:`UserError` if a logit differs by more than the tolerance.
    """
    method = config.proof
    if method == "auto":
        method = "whole" if model.num_parameters(vocab_size) <= LARGEST_WHOLE_PARAMETERS else "layers"
    in_megatron = megatron_logits if method == "whole" else megatron_logits_by_layer
    tokens = proof_sequences(config.proof_sequences, model, num_tokens=num_tokens, pause_ids=pause_ids)
    pauses = torch.isin(tokens, torch.tensor(pause_ids))
    positions = shared_positions(~pauses) if model.shares_positions else None
    comparison = compare_logits(
        in_megatron(read, model, vocab_size, tokens, positions)[..., :num_tokens],
        hf_logits(folder, tokens, method, positions)[..., :num_tokens],
        tolerance=config.tolerance,
        pauses=int(pauses.sum()),
        method=method,
    )
    if not comparison.passed:
        raise UserError(
            f"--tolerance {config.tolerance:.0e}: logits of the two models differ by up to"
            f" {comparison.max_abs_logit_difference:.2e}, nothing was written; raise it only if you know the reason"
        )
    return comparison
