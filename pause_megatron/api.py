"""Pauses in your own code: functions for any causal model of transformers, which ``import pause_megatron`` offers.

They take models and tokenizers that you have loaded, and numpy arrays. The commands use the same code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pause_megatron.config.downstream import PauseInitialization
from pause_megatron.config.pausing import InferencePausing, InferencePlacement, PrefixAttention
from pause_megatron.downstream import added_pause
from pause_megatron.downstream.generation import generate_texts
from pause_megatron.downstream.model_folder import ModelFolder, model_in_memory
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import PauseCollator, encode_example
from pause_megatron.errors import UserError
from pause_megatron.pauses.insertion import SequencePauses
from pause_megatron.pauses.pause_counts import pauses_per_sequence


def insert_pauses(
    tokens: Sequence[int] | NDArray[np.integer],
    *,
    pause_id: int,
    pause_rate: float = 0.1,
    seq_length: int = 2048,
    seed: int = 1234,
) -> NDArray[np.integer]:
    """Return training sequences with pauses at random positions, shape [sequences, seq_length], dtype of ``tokens``.

    ``tokens`` are the ids of a text without pauses, shape [tokens]: documents, each with its end-of-document token.
    Each sequence gets ``floor(pause_rate * seq_length)`` pauses at uniformly random positions and is trimmed to
    ``seq_length``; what is trimmed off starts the next sequence (Goyal et al. 2024, section 3.1). Tokens at the end
    that do not fill a sequence are left out. The positions depend only on ``seed`` and the number of the sequence.

    Raises :class:`ValueError` if ``tokens`` has pauses or another shape.
    """
    stream = np.asarray(tokens)
    if stream.ndim != 1 or not np.issubdtype(stream.dtype, np.integer):
        raise ValueError(f"tokens: an array of shape {stream.shape} and {stream.dtype}; give ids, shape [tokens]")
    if (stream == pause_id).any():
        raise ValueError(f"tokens: token {pause_id} is <pause>; give the text without pauses")
    if not 0 <= pause_id <= np.iinfo(stream.dtype).max:
        raise ValueError(f"pause_id {pause_id}: does not fit {stream.dtype}; give the tokens in a larger type")
    if not 0 <= pause_rate < 1:
        raise ValueError(f"pause_rate {pause_rate}: must be at least 0 and below 1")
    num_pauses = pauses_per_sequence(pause_rate, seq_length)
    strategy = SequencePauses(seq_length=seq_length, num_pauses=num_pauses, pause_id=pause_id, seed=seed, shard=0)
    return strategy.pack(stream, 0).tokens.reshape(-1, seq_length)


def add_pause(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    initialization: PauseInitialization = "mean",
    seed: int = 0,
) -> PreTrainedTokenizerBase:
    """Add a row for ``<pause>`` to the vocabulary matrices of ``model``, in place, and return a tokenizer with it.

    The other rows and all ids of texts stay. ``initialization`` is that of ``finetune --add-pause``. Raises
    :class:`UserError` if the tokenizer has ``<pause>``, or is not a fast one.
    """
    return added_pause.add_pause(model_in_memory(model, tokenizer), initialization, seed=seed).tokenizer


class PauseDataCollator:
    """Data collator of Hugging Face's ``Trainer``: prompts with pauses, and labels at the completion only.

    An example is a mapping with the texts ``prompt`` and ``completion``, as in TRL. ``num_pauses`` pauses follow each
    prompt, and the end-of-document token each completion. With ``prefix_attention="bidirectional"``, prompt and pauses
    attend to each other in both directions, as in the paper. Give the Trainer ``remove_unused_columns=False``.

        collator = PauseDataCollator(model, tokenizer, num_pauses=10)
        Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collator)

    Raises :class:`UserError` for a tokenizer without ``<pause>``, and for a model that cannot read a bidirectional
    prefix.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_pauses: int = 10,
        prefix_attention: PrefixAttention = "causal",
    ) -> None:
        self._folder = _with_pauses(model, tokenizer, num_pauses, prefix_attention)
        self._pausing = Pausing(num_pauses=num_pauses, prefix_attention=prefix_attention)
        self._collator = PauseCollator(
            pad_id=self._folder.eod_id,
            bidirectional=self._pausing.bidirectional,
            dtype=model.dtype,
            shares_positions=self._folder.shares_positions,
        )

    def __call__(self, examples: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Return the arguments of the model's ``forward`` for a batch.

        ``input_ids`` and ``position_ids`` are [batch, sequence]. ``attention_mask`` is 1 at real tokens, [batch,
        sequence], or for a bidirectional prefix an additive mask, [batch, 1, sequence, sequence]. ``labels`` are
        [batch, target + 1], because logits start at the last pause (``logits_to_keep``). Raises :class:`UserError` for
        a completion that leaves no room for its prompt.
        """
        pairs = [TextPair(example["prompt"], example["completion"]) for example in examples]
        return self._collator([encode_example(pair, self._folder, self._pausing) for pair in pairs])


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    num_pauses: int = 10,
    pause_placement: InferencePlacement = "append",
    pause_marker: str | None = None,
    prefix_attention: PrefixAttention = "causal",
    max_new_tokens: int = 64,
    **settings: Any,
) -> list[str]:
    """Return the continuation of each prompt after ``num_pauses`` pauses; all prompts are one batch.

    Outputs before the last pause are ignored, and ``<pause>`` is never emitted. Give the number, the placement and the
    attention of the model's finetuning. ``settings`` are those of
    :func:`~pause_megatron.downstream.generation.generate_texts`, such as ``temperature``, or of stock ``generate``.

    Raises :class:`UserError` for a tokenizer without ``<pause>``, for a model that cannot read a bidirectional prefix,
    and for a prompt without the marker.
    """
    folder = _with_pauses(model, tokenizer, num_pauses, prefix_attention)
    pausing = InferencePausing(
        num_pauses_inf=num_pauses,
        pause_placement=pause_placement,
        pause_marker=pause_marker,
        prefix_attention=prefix_attention,
    )
    return generate_texts(folder, prompts, pausing=pausing, max_new_tokens=max_new_tokens, **settings)


def _with_pauses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_pauses: int, prefix_attention: PrefixAttention
) -> ModelFolder:
    folder = model_in_memory(model, tokenizer)
    if num_pauses and not folder.pause_ids:
        raise UserError(f"num_pauses {num_pauses}: the tokenizer has no <pause>; add it with pause_megatron.add_pause")
    if prefix_attention == "bidirectional" and folder.bidirectional_problem:
        raise UserError(f"prefix_attention bidirectional: {folder.bidirectional_problem}; give causal")
    return folder
