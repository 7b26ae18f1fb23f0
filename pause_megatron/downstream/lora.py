"""LoRA (Hu et al. 2021): low-rank additions to a model's matrices are trained instead of the matrices themselves.

The pause embedding is trained with them: a model that has not been pretrained with pauses has nothing else to learn
what a pause is from.
"""

from __future__ import annotations

from dataclasses import replace

from peft import LoraConfig, get_peft_model
from transformers import set_seed

from pause_megatron.downstream.model_folder import ModelFolder

ALPHA = 2
"""The additions are scaled by this, whatever their rank."""


def with_lora(base: ModelFolder, rank: int, seed: int) -> ModelFolder:
    """``base`` with additions of ``rank`` to every matrix of its layers, which ``merge_and_unload()`` makes part of it.

    They begin as nothing: one factor is drawn with ``seed``, the other is zero.
    """
    set_seed(seed)
    embeddings = base.model.get_input_embeddings()
    [name] = [name.rpartition(".")[2] for name, module in base.model.named_modules() if module is embeddings]
    settings = LoraConfig(
        r=rank,
        lora_alpha=ALPHA * rank,
        target_modules="all-linear",
        trainable_token_indices={name: [base.pause_id]} if base.pause_id is not None else None,
        fan_in_fan_out=base.model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    return replace(base, model=get_peft_model(base.model, settings))
