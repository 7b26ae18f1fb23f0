"""Decoding after pauses: the prefix is read once, as it is attended in finetuning, and stock ``generate`` goes on.

What the model says before the last pause is ignored, and ``<pause>`` itself can never be emitted. The harness model and
the ``generate`` command both come through here.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, set_seed

from pause_megatron.config.downstream import GenerateConfig
from pause_megatron.downstream.batching import BorderBatch, line_up
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.pauses.prompts import TokenIds, pause_prefix


def generate_command(config: GenerateConfig) -> None:
    """Print the continuation of ``config.prompt`` after ``config.num_pauses_inf`` pauses.

    Raises :class:`UserError` for what is no model folder, pauses the model does not know, and more of them than fit.
    """
    folder = load_model_folder(config.model, config.precision)
    prefix = pause_prefix(
        folder.tokenizer.encode(config.prompt, add_special_tokens=False),
        folder.pauses_for_inference(config.num_pauses_inf),
        pause_id=folder.pause_id,
        eod_id=folder.eod_id,
        room=folder.context_length - config.max_new_tokens,
    )
    set_seed(config.seed)
    sampling: dict[str, Any] = {"do_sample": False}
    if config.temperature > 0:
        sampling = {"do_sample": True, "temperature": config.temperature, "top_k": 0}
    [continuation] = generate_after(
        folder,
        [prefix],
        bidirectional=folder.prefix_attention(config.prefix_attention) == "bidirectional",
        max_new_tokens=config.max_new_tokens,
        **sampling,
    )
    print(folder.tokenizer.decode(continuation, skip_special_tokens=True))


def generate_after(
    folder: ModelFolder, prefixes: list[TokenIds], *, bidirectional: bool, **settings: Any
) -> list[list[int]]:
    """The tokens stock ``generate`` adds to each of ``prefixes``, without padding and end-of-document.

    ``settings`` are ``generate``'s own, such as ``max_new_tokens`` and ``do_sample``.
    """
    batch = line_up(prefixes, [[]] * len(prefixes), folder.eod_id).to(folder.model.device)
    arguments = generation_arguments(folder.model, batch, folder.pause_id, bidirectional=bidirectional)
    ended = {"eos_token_id": folder.eod_id, "pad_token_id": folder.eod_id}
    output = folder.model.generate(batch.input_ids, **arguments, **ended, **settings)
    continuations: list[list[int]] = output[:, batch.border :].tolist()
    return [tokens[: tokens.index(folder.eod_id)] if folder.eod_id in tokens else tokens for tokens in continuations]


@torch.no_grad()
def generation_arguments(
    model: PreTrainedModel, batch: BorderBatch, pause_id: int | None, *, bidirectional: bool
) -> dict[str, Any]:
    """What ``model.generate(batch.input_ids, ...)`` needs beside its own settings; ``batch`` holds prefixes only.

    A bidirectional prefix is read here, into a cache, because ``generate`` by itself reads prompts causally. The cache
    is handed over one position short: ``generate`` then reads the last pause again, over keys that have seen the whole
    prefix, and so passes the first target token through the same sampling and suppression as every other.
    """
    arguments: dict[str, Any] = {"attention_mask": batch.real.long()}
    if pause_id is not None:
        arguments["suppress_tokens"] = [pause_id]
    if bidirectional and batch.border > 1:
        cache = DynamicCache(config=model.config)
        inputs = batch.model_inputs(bidirectional=True, dtype=model.dtype)
        model(**inputs, past_key_values=cache, use_cache=True)
        cache.crop(-1)
        arguments["past_key_values"] = cache
    return arguments
