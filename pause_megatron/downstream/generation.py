"""Decoding after pauses: the prefix is read once, as it is attended in finetuning, and stock ``generate`` goes on.

What the model says before the last pause is ignored, and ``<pause>`` itself can never be emitted. Whoever has texts
calls :func:`generate_texts`, as the ``generate`` command does; the harness model has ids and comes in further down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, set_seed

from pause_megatron.config.downstream import GenerateConfig, InferencePausing
from pause_megatron.downstream.batching import BorderBatch, line_up
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import resolve_pausing
from pause_megatron.pauses.prompts import TokenIds


def generate_command(config: GenerateConfig) -> None:
    """Print the continuation of ``config.prompt``: the text of a single one, a JSON object a line of several.

    Raises :class:`UserError` for what is no model folder, pauses the model does not know, more of them than fit, and a
    prompt without the marker.
    """
    texts = generate_texts(
        load_model_folder(config.model, config.precision),
        config.prompt,
        pausing=config.pausing,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        num_beams=config.num_beams,
        seed=config.seed,
    )
    if len(config.prompt) == 1:
        print(texts[0])
        return
    for prompt, text in zip(config.prompt, texts, strict=True):
        print(json.dumps({"prompt": prompt, "continuation": text}, ensure_ascii=False))


def generate_texts(
    folder: ModelFolder,
    prompts: Sequence[str],
    *,
    pausing: InferencePausing | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    num_beams: int = 1,
    seed: int | None = None,
    **settings: Any,
) -> list[str]:
    """The continuation of every prompt after its pauses, all decoded as one batch.

        folder = load_model_folder(Path("ft/pausept_pauseft"))
        [answer] = generate_texts(folder, ["Question: 2 + 2? Answer:"])
        [other] = generate_texts(folder, ["Question: 2 + 2? Answer:"], pausing=InferencePausing(num_pauses_inf=0))

    The model pauses as it was finetuned, except for the settings in ``pausing``
    (:func:`~pause_megatron.downstream.pausing.resolve_pausing`). A prompt that is too long loses its beginning.

    Temperature 0 takes the likeliest token or, with ``num_beams``, the likeliest continuation that beam search finds;
    above 0 it samples, from the ``top_k`` likeliest tokens and from ``top_p`` of the probability where these are given.
    ``seed`` sets PyTorch's, for the same samples again. ``settings`` are further ones of stock ``generate``, such as
    ``repetition_penalty``; with ``num_return_sequences`` every prompt has that many texts in a row.

    Raises :class:`UserError` for pauses the model does not know, more of them than fit, and a prompt without marker.
    """
    if not prompts:
        return []
    resolved = resolve_pausing(folder, pausing or InferencePausing())
    room = folder.context_length - max_new_tokens
    encoded = [folder.tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    prefixes = [resolved.prefix(folder, prompt, ids, room) for prompt, ids in zip(prompts, encoded, strict=True)]
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    if seed is not None:
        set_seed(seed)
    continuations = generate_after(
        folder,
        prefixes,
        bidirectional=resolved.bidirectional,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        **sampling,
        **settings,
    )
    return [folder.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in continuations]


def generate_after(
    folder: ModelFolder, prefixes: list[TokenIds], *, bidirectional: bool, **settings: Any
) -> list[list[int]]:
    """The tokens stock ``generate`` adds to each of ``prefixes``, without padding and end-of-document.

    ``settings`` are ``generate``'s own, such as ``max_new_tokens`` and ``do_sample``.
    """
    batch = line_up(prefixes, [[]] * len(prefixes), folder.eod_id).to(folder.model.device)
    arguments = generation_arguments(
        folder.model, batch, folder.pause_id, bidirectional=bidirectional, settings=settings
    )
    ended = {"eos_token_id": folder.eod_id, "pad_token_id": folder.eod_id}
    output = folder.model.generate(batch.input_ids, **{**ended, **settings, **arguments})
    continuations: list[list[int]] = output[:, batch.border :].tolist()
    return [tokens[: tokens.index(folder.eod_id)] if folder.eod_id in tokens else tokens for tokens in continuations]


@torch.no_grad()
def generation_arguments(
    model: PreTrainedModel,
    batch: BorderBatch,
    pause_id: int | None,
    *,
    bidirectional: bool,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``model.generate(batch.input_ids, ...)`` needs beside ``settings``, its own; ``batch`` holds prefixes only.

    A bidirectional prefix is read here, into a cache, because ``generate`` by itself reads prompts causally. The cache
    is handed over one position short: ``generate`` then reads the prefix's last position again, over keys that have
    seen the whole prefix, and so passes the first target token through the same sampling and suppression as every
    other. Where it searches with beams or returns several sequences it repeats ids and masks for them, but no cache it
    is given: that is done here.
    """

    def setting(name: str) -> Any:
        return settings[name] if name in settings else getattr(model.generation_config, name, None)

    arguments: dict[str, Any] = {"attention_mask": batch.real.long()}
    if pause_id is not None:
        arguments["suppress_tokens"] = sorted({*(setting("suppress_tokens") or ()), pause_id})
    if bidirectional and batch.border > 1:
        cache = DynamicCache(config=model.config)
        inputs = batch.model_inputs(bidirectional=True, dtype=model.dtype)
        model(**inputs, past_key_values=cache, use_cache=True)
        cache.crop(-1)
        cache.batch_repeat_interleave(max(setting("num_beams") or 1, setting("num_return_sequences") or 1))
        arguments["past_key_values"] = cache
    return arguments
