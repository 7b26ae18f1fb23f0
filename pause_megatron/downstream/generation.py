"""Decoding after pauses: one forward pass reads the prefix with its attention mask, and stock ``generate`` continues.

The model's predictions before the last prefix position are ignored, and ``<pause>`` itself is never emitted. Call
:func:`generate_texts` if you have texts, as the ``generate`` command does, and :func:`generate_after` if you have ids.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, set_seed

from pause_megatron.config.downstream import GenerateConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.batching import BorderBatch, align
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.paused_decoding import reads_pauses
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.errors import UserError
from pause_megatron.parallel.process_device import choose_device
from pause_megatron.pauses.prompts import Interleaving, PausedTokens
from pause_megatron.tokenizer.pause_tokenizer import excerpt


def generate_command(config: GenerateConfig) -> None:
    """Print the continuation of ``config.prompt``: the text of a single prompt, or one JSON object per line."""
    others = ("model", "precision", "device", "prompt")
    settings = {name: value for name, value in vars(config).items() if name not in others}
    choose_device(config.device)
    texts = generate_texts(load_model_folder(config.model, config.precision), config.prompt, **settings)
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
    """Return the continuation of every prompt after its pauses; all prompts are decoded as one batch.

        folder = load_model_folder(Path("ft/pausept_pauseft"))
        [answer] = generate_texts(folder, ["Question: 2 + 2? Answer:"])
        [other] = generate_texts(folder, ["Question: 2 + 2? Answer:"], pausing=InferencePausing(num_pauses_inf=0))

    The model pauses as it was finetuned, except for the settings in ``pausing``. A prompt that is too long loses its
    beginning. The flags of the same names describe the other settings; further ones are passed to stock ``generate``,
    for example ``repetition_penalty``. With ``num_return_sequences`` each prompt has that many texts in a row.

    Raises :class:`UserError` for settings that :class:`GenerateConfig` refuses, for the errors of
    :func:`~pause_megatron.downstream.pausing_decisions.resolve_pausing`, for pauses that leave no room, for a prompt
    without the marker, and for logits that are not finite.
    """
    if not prompts:
        return []
    checked = GenerateConfig(
        model=folder.path,
        prompt=tuple(prompts),
        pausing=pausing or InferencePausing(),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        num_beams=num_beams,
        seed=seed or 0,
    )
    resolved = resolve_pausing(folder, checked.pausing)
    room = folder.context_length - max_new_tokens
    prefixes = [resolved.prefix(folder, prompt, folder.encode(prompt), room) for prompt in prompts]
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    if seed is not None:
        set_seed(seed)
    continuations = generate_after(
        folder,
        prefixes,
        bidirectional=resolved.bidirectional,
        interleaving=resolved.interleaving(folder),
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        **sampling,
        **settings,
    )
    return [folder.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in continuations]


def generate_after(
    folder: ModelFolder,
    prefixes: list[PausedTokens],
    *,
    bidirectional: bool,
    interleaving: Interleaving | None = None,
    **settings: Any,
) -> list[list[int]]:
    """Return the ids that ``model.generate(**settings)`` adds to each prefix, up to the first stop token.

    With ``interleaving``, the model reads pauses after its own tokens too; they are not in the result.
    """
    batch = align(prefixes, [[]] * len(prefixes), folder.eod_id, shares_positions=folder.shares_positions)
    batch = batch.to(folder.model.device)
    arguments = generation_arguments(folder, batch, bidirectional=bidirectional, settings=settings)
    ended = {"eos_token_id": list(folder.stop_ids), "pad_token_id": folder.eod_id}
    with reads_pauses(folder.model, batch, interleaving):
        output = folder.model.generate(batch.input_ids, **{**ended, **settings, **arguments})
    continuations: list[list[int]] = output[:, batch.border :].tolist()
    return [list(takewhile(lambda token: token not in folder.stop_ids, tokens)) for tokens in continuations]


@torch.no_grad()
def generation_arguments(
    folder: ModelFolder, batch: BorderBatch, *, bidirectional: bool, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that ``generate(batch.input_ids, **settings)`` needs in addition; ``batch`` has no targets.

    ``generate`` reads prompts causally, so a bidirectional prefix is read here, into a cache without its last
    position. ``generate`` reads that position again and attends to the complete prefix. The first target token thus
    passes through the same sampling and suppression as all others.
    """
    model = folder.model

    def setting(name: str) -> Any:
        return settings[name] if name in settings else getattr(model.generation_config, name, None)

    processors = [*(settings.get("logits_processor") or ()), _RefuseBadLogits(folder, batch)]
    arguments: dict[str, Any] = {
        "attention_mask": batch.real.long(),
        "logits_processor": LogitsProcessorList(processors),
    }
    if folder.pause_ids:
        arguments["suppress_tokens"] = sorted({*(setting("suppress_tokens") or ()), *folder.pause_ids})
    if bidirectional and batch.border > 1:
        cache = DynamicCache(config=model.config)
        inputs = batch.model_inputs(bidirectional=True, dtype=model.dtype)
        model(**inputs, past_key_values=cache, use_cache=True)
        cache.crop(-1)
        # For beams and several sequences generate() repeats ids and masks of each row, but not a cache.
        cache.batch_repeat_interleave(max(setting("num_beams") or 1, setting("num_return_sequences") or 1))
        arguments["past_key_values"] = cache
    return arguments


@dataclass(frozen=True)
class _RefuseBadLogits(LogitsProcessor):
    """Ends decoding at logits that are not finite; ``generate`` would choose any token."""

    folder: ModelFolder
    batch: BorderBatch

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return ``scores``, [rows, vocabulary], as they are; suppressed tokens have -inf, and NaN is the maximum."""
        finite = scores.amax(dim=-1).isfinite()
        if not finite.all():
            copies = len(scores) // len(self.batch.real)  # beams or sequences of a prompt, in adjacent rows
            row = int(finite.logical_not().nonzero()[0]) // copies
            ids = self.batch.input_ids[row][self.batch.real[row]]
            raise bad_logits(self.folder, self.folder.tokenizer.decode(ids, skip_special_tokens=True))
        return scores


def bad_logits(folder: ModelFolder, prompt: str) -> UserError:
    """Return the error of a model whose logits after ``prompt`` are not finite."""
    return UserError(
        f"{folder.path}: the logits after the prompt {excerpt(prompt)} are not finite; use --precision fp32, or a model"
        " trained with a lower learning rate"
    )
