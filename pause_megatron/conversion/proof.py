"""Check that an export computes the same as its checkpoint, by comparing logits position by position.

Both models compute in fp32 from the weights as they are in the export. For example, an export in bf16 is compared with
the checkpoint's weights rounded to bf16.

The Hugging Face side is always loaded by stock transformers, never by this project's reader of weights, whose mistakes
the comparison would otherwise not see.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from pause_megatron.config.conversion import ComparisonConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import CONFIG_FILE, read_hf_config
from pause_megatron.conversion.hf_settings import model_config_of
from pause_megatron.conversion.one_layer import Read, megatron_logits_by_layer, megatron_model, set_weights
from pause_megatron.errors import UserError, one_line, system_error
from pause_megatron.model.parameters import POSITION_EMBEDDINGS, WORD_EMBEDDINGS
from pause_megatron.pauses.positions import shared_positions
from pause_megatron.process_memory import keep_freed_memory
from pause_megatron.records.conversion import LogitComparison

PROOF_PAUSE_RATE = 0.25
"""Share of pauses in the sequences that contain pauses."""
LARGEST_WHOLE_PARAMETERS = 20_000_000
"""Larger models are compared layer by layer, which takes less time and memory."""
_LARGEST_KEPT_BYTES = 1 << 20
"""Larger activations return to the system when a layer is done: the allocator would keep some of every layer."""
_EMBEDDING_ROWS = 1 << 16
"""Rows of embeddings that are compared at a time."""

Method = Literal["whole", "layers"]


def proof_sequences(
    count: int, length: int, model: ModelConfig, *, num_tokens: int, pause_ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids below ``num_tokens`` and their position indices, int64 ``[count, length]``; the same at every call.

    There are at least two sequences, and none is longer than the model's context. Sequences 1, 3, ... have pauses at a
    quarter of their positions (at least one, and one of each of distinct pauses), if ``pause_ids`` are below
    ``num_tokens``. The other sequences have no pause. The indices are 0, 1, 2, ... in sequences 0, 2, ...; in the
    others they are spread over the model's context, with its first and its last position.
    """
    length = min(model.max_position_embeddings, length)
    generator = torch.Generator().manual_seed(0)
    others = torch.tensor([token for token in range(num_tokens) if token not in pause_ids])
    tokens = others[torch.randint(len(others), (max(count, 2), length), generator=generator)]
    if pause_ids[-1] < num_tokens:
        for sequence in tokens[1::2]:
            number = max(int(PROOF_PAUSE_RATE * length), len(pause_ids))
            places = torch.randperm(length, generator=generator)[:number]
            sequence[places] = torch.tensor(pause_ids).repeat(number)[: len(places)]
    is_pause = torch.isin(tokens, torch.tensor(pause_ids))
    positions = shared_positions(~is_pause) if model.shares_positions else torch.arange(length).repeat(len(tokens), 1)
    spread = torch.linspace(0, model.max_position_embeddings - 1, length).long()
    positions[1::2] = spread[positions[1::2]]
    return tokens, positions


@torch.no_grad()
def megatron_logits(
    read: Read, model: ModelConfig, vocab_size: int, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Logits of the Megatron-core model with the weights from ``read``, fp32: ``[count, length, vocab_size]``.

    ``tokens`` and their position indices ``positions``: ``[count, length]``.
    """
    with megatron_model(model, vocab_size) as local:
        for item in local.parameters:
            set_weights(item, read(item.name))
        logits: torch.Tensor = local.chunks[0].eval()(tokens, positions, None)  # [count, length, padded vocab_size]
    return logits[..., :vocab_size].float()


def load_hf_model(folder: Path, method: Method = "whole") -> Any:
    """Load the folder's model with stock transformers, in fp32.

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
    return model.eval()


@torch.no_grad()
def hf_logits(hf_model: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits of a model of transformers, fp32: ``[count, length, vocab_size]``.

    ``tokens`` and their position indices ``positions``: ``[count, length]``. All sequences are one batch, because every
    batch reads all weights.
    """
    # Without a mask transformers takes repeated positions for several sequences in a row.
    mask = torch.ones_like(tokens)
    inputs = {"input_ids": tokens, "position_ids": positions, "attention_mask": mask}
    logits: torch.Tensor = hf_model(**inputs, use_cache=False).logits  # a cache would hold those of all layers
    return logits.float()


def refuse_other_settings(folder: Path, model: ModelConfig) -> None:
    """Check the settings in ``config.json`` of ``folder`` that the logits of short sequences do not show.

    Raises :class:`UserError` for a setting that these models do not compute, such as a sliding window, which may be
    longer than the sequences, and for another context or another kind of position indices than ``model`` has.
    """
    found = model_config_of(read_hf_config(folder), folder)
    for name in ("max_position_embeddings", "pause_positions"):
        if getattr(found, name) != getattr(model, name):
            raise UserError(
                f"{folder / CONFIG_FILE}: {name} {getattr(found, name)}, but {getattr(model, name)} in the checkpoint;"
                " report this as a bug"
            )


@torch.no_grad()
def refuse_other_embeddings(
    hf_model: Any, read: Read, model: ModelConfig, *, num_tokens: int, tolerance: float
) -> None:
    """Compare every row of the embeddings, because the sequences hold only some tokens and positions.

    Raises :class:`UserError` if an embedding of one of the first ``num_tokens`` tokens, or of a position, differs by
    more than ``tolerance``.
    """
    names = (WORD_EMBEDDINGS,) if model.architecture == "llama" else (WORD_EMBEDDINGS, POSITION_EMBEDDINGS)
    found = (module for module in hf_model.modules() if isinstance(module, torch.nn.Embedding))
    for name, embedding in zip(names, found, strict=True):
        expected = read(name)[: num_tokens if name == WORD_EMBEDDINGS else None]
        for ids in torch.arange(len(expected)).split(_EMBEDDING_ROWS):
            difference = float((expected[ids[0] : ids[-1] + 1].float() - embedding(ids)).abs().max())
            if not difference <= tolerance:  # NaN <= tolerance is False
                raise _difference(f"rows of {name}", difference, tolerance)


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

    Raises :class:`UserError` if a logit or an embedding differs by more than the tolerance.
    """
    method = config.proof
    if method == "auto":
        method = "whole" if model.num_parameters(vocab_size) <= LARGEST_WHOLE_PARAMETERS else "layers"
    if method == "layers":
        keep_freed_memory(total=_LARGEST_KEPT_BYTES, largest=_LARGEST_KEPT_BYTES)
    in_megatron = megatron_logits if method == "whole" else megatron_logits_by_layer
    tokens, positions = proof_sequences(
        config.proof_sequences, config.proof_length, model, num_tokens=num_tokens, pause_ids=pause_ids
    )
    expected = in_megatron(read, model, vocab_size, tokens, positions)[..., :num_tokens]
    hf_model = load_hf_model(folder, method)
    comparison = compare_logits(
        expected,
        hf_logits(hf_model, tokens, positions)[..., :num_tokens],
        tolerance=config.tolerance,
        pauses=int(torch.isin(tokens, torch.tensor(pause_ids)).sum()),
        method=method,
    )
    if not comparison.passed:
        raise _difference("logits", comparison.max_abs_logit_difference, config.tolerance)
    refuse_other_embeddings(hf_model, read, model, num_tokens=num_tokens, tolerance=config.tolerance)
    return comparison


def _difference(what: str, difference: float, tolerance: float) -> UserError:
    return UserError(
        f"--tolerance {tolerance:.0e}: {what} of the two models differ by up to {difference:.2e}, nothing was written;"
        " raise it only if you know the reason"
    )
