"""What the check sees of mistakes in random models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pause_megatron.config.conversion import ComparisonConfig
from pause_megatron.conversion.hf_settings import model_config_of
from pause_megatron.conversion.proof import (
    hf_logits,
    megatron_logits,
    proof_sequences,
    refuse_other_embeddings,
    refuse_other_settings,
)
from pause_megatron.conversion.table import from_hf_state
from pause_megatron.errors import UserError
from tests.conversion.mistakes import PAUSE_ID, VOCAB_SIZE, Mistake, Weights, mistakes_of, random_model


def weights_of(hf_model: PreTrainedModel) -> Weights:
    """Weights by name; a tied output layer only under the name of the embeddings."""
    return {name: parameter.detach() for name, parameter in hf_model.named_parameters()}


def with_mistake(hf_model: PreTrainedModel, mistake: Mistake) -> PreTrainedModel:
    """A copy of ``hf_model`` with a mistake in its configuration or its weights."""
    config, weights = deepcopy(hf_model.config), weights_of(hf_model)
    mistake(config, weights)
    changed: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    assert not changed.load_state_dict(weights, strict=False).unexpected_keys
    return changed


@torch.no_grad()
def compare_with_mistakes(
    family: str, lengths: Sequence[tuple[int, int]], folder: Path
) -> Iterator[tuple[str, list[float], str]]:
    """Compare models of ``family`` with and without mistakes, and yield what is found.

    Yields the mistake, the largest difference of a logit for each number and length of sequences, and the other check
    that refuses it: "embeddings", "settings" or none. The first "mistake" is none. Writes to the empty ``folder``.
    """
    hf_model = random_model(family).eval()
    hf_model.save_pretrained(folder)
    model = model_config_of(hf_model.config, folder)
    read = dict(from_hf_state(weights_of(hf_model).__getitem__, model, VOCAB_SIZE)).__getitem__
    inputs = [proof_sequences(*each, model, num_tokens=VOCAB_SIZE, pause_ids=[PAUSE_ID]) for each in lengths]
    expected = [megatron_logits(read, model, VOCAB_SIZE, *each) for each in inputs]
    mistakes: dict[str, Mistake] = {"none": lambda config, weights: None, **mistakes_of(family)}
    for name, mistake in mistakes.items():
        changed = with_mistake(hf_model, mistake)
        changed.config.save_pretrained(folder)
        refusal = ""
        try:
            refusal = "settings"
            refuse_other_settings(folder, model)
            refusal = "embeddings"
            refuse_other_embeddings(changed, read, model, num_tokens=VOCAB_SIZE, tolerance=ComparisonConfig.tolerance)
            refusal = ""
        except UserError:
            pass
        found = [hf_logits(changed, *each) for each in inputs]
        yield name, [float((one - other).abs().max()) for one, other in zip(expected, found, strict=True)], refusal
