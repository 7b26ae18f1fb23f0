"""Causal models of any architecture of transformers: loading, length of the context, attention in both directions.

Nothing here depends on a list of architectures. :func:`bidirectional_problem` tries the mask of a bidirectional prefix
on the loaded model, because transformers has models that refuse it, and models that ignore it without a word.
"""

import copy
import functools
import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from pause_megatron.downstream.batching import align
from pause_megatron.errors import UserError, one_line

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Keys of ``config.json`` with the length of the context; architectures have different ones."""
_USUAL_LENGTH = 2048
"""Context of a model that names none: the default of lm-evaluation-harness."""
_NO_LENGTH = 10**9
"""A ``model_max_length`` of a tokenizer from here on means none; transformers writes 10**30."""


def load_causal_model(
    folder: Path, settings: PretrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load the model of ``folder``, whose ``config.json`` is ``settings``; also returns transformers' loading info.

    Attention is PyTorch's ``scaled_dot_product_attention``, or eager for architectures without support for it.
    """
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(settings), None)
    # Never one that the folder names, which may be code from a hub.
    attention = "sdpa" if getattr(known, "_supports_sdpa", True) else "eager"
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, attn_implementation=attention, output_loading_info=True
    )
    arguments = inspect.signature(model.forward).parameters
    wrapped = "attention_mask" not in arguments  # by something that passes all arguments on
    if not wrapped and "logits_to_keep" not in arguments:
        raise UserError(
            f"{folder}: {type(model).__name__} cannot leave out logits (no logits_to_keep); give another model"
        )
    if not wrapped and "position_ids" not in arguments:
        _count_positions_itself(model)
    return model, loading


def _count_positions_itself(model: PreTrainedModel) -> None:
    """Make ``forward`` of a model that derives positions from the attention mask ignore ``position_ids``."""
    stock = model.forward

    @functools.wraps(stock)
    def forward(*arguments: Any, position_ids: Any = None, **keywords: Any) -> Any:
        return stock(*arguments, **keywords)

    model.forward = forward


def context_length_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest sequence that ``model`` is made for, in tokens; 2,048 if neither it nor its tokenizer says."""
    settings = model.config.get_text_config()
    found = next((length for key in _LENGTHS if isinstance(length := getattr(settings, key, None), int)), None)
    if found:
        return found
    length = tokenizer.model_max_length
    return int(length) if 0 < length < _NO_LENGTH else _USUAL_LENGTH


@torch.no_grad()
def bidirectional_problem(model: PreTrainedModel) -> str | None:
    """Return why ``model`` cannot read a prefix with attention in both directions; None if it can.

    Three rows differ in one token each: the first token of a prefix must see its last token, the prefix must not see
    the token after it, and a cache that was filled with the prefix must give the logits of the last prefix token.
    """
    settings = model.config.get_text_config()
    for key, kind in (("sliding_window", "sliding_attention"), ("attention_chunk_size", "chunked_attention")):
        window = getattr(settings, key, None)
        kinds = getattr(settings, "layer_types", None)
        if window and (kinds is None or kind in kinds) and window < (getattr(settings, _LENGTHS[0], None) or window):
            return f"its layers attend within {window} positions, which a mask of both directions would not keep"
    try:
        return _problem_of_logits(_small_copy(model) if is_deepspeed_zero3_enabled() else model)
    except Exception as error:  # an architecture can fail anywhere on a mask or cache that it does not know
        return f"it cannot use a mask of both directions ({type(error).__name__}: {one_line(error)[:120]})"


def _small_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a random model of two layers like ``model``, whose weights are divided over processes under ZeRO-3."""
    settings = copy.deepcopy(model.config)
    part = settings.get_text_config()
    part.num_hidden_layers = 2
    if getattr(part, "layer_types", None):
        part.layer_types = part.layer_types[:2]
    return type(model)(settings).eval()


def _problem_of_logits(model: PreTrainedModel) -> str | None:
    rows = model.get_input_embeddings().num_embeddings
    first, *others, changed = (rows * part // 7 for part in range(1, 7))  # five tokens of a row, and another token
    row = [first, *others]
    prefixes = [row[:4], [*row[:3], changed], row[:4]]
    targets = [row[4:], row[4:], [changed]]
    batch = align(prefixes, targets, pad_id=0).to(model.device)
    inputs = {**batch.model_inputs(bidirectional=True, dtype=model.dtype), "logits_to_keep": 0}  # 0: all
    logits = model(**inputs).logits.float()  # [3 rows, 5 positions, vocabulary]
    own = _distance(logits[0, 3], logits[1, 3])  # what a token changes at its own position
    seen, leaked = _distance(logits[0, 0], logits[1, 0]), _distance(logits[0, :4], logits[2, :4])
    if seen < own / 1000:
        return "it ignores a mask of both directions"
    if leaked > own / 1000:
        return "with a mask of both directions its prefix sees the tokens after it"
    prefix = align(prefixes[:1], [[]], pad_id=0).to(model.device)
    cache = DynamicCache(config=model.config)
    model(**prefix.model_inputs(bidirectional=True, dtype=model.dtype), past_key_values=cache, use_cache=True)
    cache.crop(-1)
    again = model(
        input_ids=prefix.input_ids[:, -1:],
        attention_mask=prefix.real.long(),
        position_ids=prefix.position_ids[:, -1:],
        past_key_values=cache,
        use_cache=True,
    ).logits.float()[0, -1]
    if _distance(again, logits[0, 3]) > own / 10:
        return "its cache loses a prefix that attends in both directions"
    return None


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())
