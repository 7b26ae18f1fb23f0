"""Model card of an export: the model, its training data, and how to pause with it."""

from collections.abc import Sequence

from huggingface_hub import EvalResult

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.card_parts import (
    CardOrigin,
    appending_program,
    card_metadata,
    own_program,
    pipeline_program,
)
from pause_megatron.conversion.hf_config import hf_model_type
from pause_megatron.records.conversion import ExportRecord, PretrainingRecord

_STRATEGIES = {
    "sequence": "`<pause>` was inserted at random positions of every sequence",
    "document": "`<pause>` was inserted at random positions of every document",
    "every": "`<pause>` was inserted after every token, or after every few tokens",
    "none": "plain text, without pauses",
}

_RATES = {
    "drawn": "each has a rate of its own, drawn from 0 to twice the mean",
    "drawn+fixed": "in a part of the data each has a rate of its own, drawn from 0 to twice the mean",
}

_CARD = """{metadata}
# {name}

A language model of {parameters:,} parameters ({kind}, {model.num_layers} layers of width
{model.hidden_size}), pretrained by pause_megatron, which pause-trains models as *Think before you speak* does (Goyal et
al., ICLR 2024, arXiv 2310.02226). It loads with stock transformers.

## Training

- Run `{pretraining.name}`: {pretraining.iterations:,} steps on {pretraining.real_tokens:,} real tokens and
  {pretraining.pause_tokens:,} pauses, in sequences of {pretraining.seq_length} tokens. Positions before a `<pause>`
  carried no loss.
- Text: {pauses}.
- Data: {data}.

## Pausing

{pausing}

`generation_config.json` keeps `<pause>` out of the generated text. In the paper, pausing helps a model that was
pretrained *and* finetuned with pauses; it rarely helps others.

## Proof

Logits differ from those of the checkpoint by at most {comparison.max_abs_logit_difference:.1e}, over
{comparison.positions} positions, {comparison.pauses} of them pauses, computed in fp32 from the weights in this folder
({record.dtype}). See `conversion_report.json` for the details.
"""

_BY_HAND = """{pauses} Append it to the prompt as many times
as the model should pause, and ignore the output before the last pause. You must append the id: the characters `<pause>`
in a text are text.

{program}"""
_BAKED = """{pauses} The tokenizer
appends {tokenizer.baked_pauses} of them to every prompt that it encodes with special tokens, and so does the chat
template. Pipelines and servers therefore pause without changes:

{program}"""

_EVERY = """{pauses} In training,
{pretraining.pauses_per_token} of them followed every {tokens}, and the last one predicted the next token.
`pause-megatron generate`, `evaluate` and `finetune` read prompts and answers this way by themselves:

{program}

**Stock programs cannot pause in the answer.** The `generate` of transformers, vLLM, text-generation-inference and
llama.cpp read each generated token without its pauses and predict from a position whose output training ignored. The
text is then poor, and no warning appears. Pauses that you append to the prompt only help with the first token."""


_DISTINCT = """`<pause1>` to `<pause{count}>` are tokens {first} to {last} of {tokenizer.vocab_size}. They are
the first to the last pause of a run; in a longer run `<pause{count}>` repeats. Stock programs do not number pauses, so
insert the ids in this order. Below, `<pause>` is any of them."""
_LENGTH = 10
"""Pauses in the example; the paper uses 10 or 50."""
_SHARED = """

**Position indices.** A pause has the index of the real token before it: `a <pause> <pause> b` has the indices 0, 0, 0,
1 (`"pause_positions": "shared"` in `config.json`). **Stock programs do not read this key.** They number all tokens in a
row, so that after the first pause the model sees positions it was not trained on, and no warning appears. In
transformers you can pass `position_ids` to `forward`, together with an `attention_mask`: without a mask, repeated
indices count as several sequences. `generate`, vLLM and others cannot do that. The context of {positions} positions
counts real tokens only."""


_NO_DATA = {False: "none by this project", True: "not known, because an import does not record it"}
"""Training data of a checkpoint that names none, by whether this project pretrained its model."""


def model_card(name: str, record: ExportRecord, model: ModelConfig, results: Sequence[EvalResult] = ()) -> str:
    """Markdown for the model ``name``, that of its folder or on the hub, from its conversion report."""
    imported = bool(record.pretraining.iterations)
    shared = _SHARED.format(positions=model.max_position_embeddings)
    return _CARD.format(
        metadata=card_metadata(name, CardOrigin(), results),
        name=name,
        parameters=model.num_parameters(record.tokenizer.vocab_size),
        kind=hf_model_type(model),
        model=model,
        pretraining=record.pretraining,
        pauses=_pauses(record.pretraining),
        data=", ".join(f"`{folder}`" for folder in record.source["config"]["data"]) or _NO_DATA[imported],
        pausing=_pausing(name, record) + shared * model.shares_positions,
        comparison=record.verdict,
        record=record,
    )


def _pausing(name: str, record: ExportRecord) -> str:
    pretraining = record.pretraining
    run = [min(index, (record.tokenizer.distinct_pauses or 1) - 1) for index in range(_LENGTH)]
    text, program = _BY_HAND, appending_program(name, [record.tokenizer.pause_id + index for index in run])
    if record.tokenizer.baked_pauses:
        text, program = _BAKED, pipeline_program(name)
    if pretraining.pauses_per_token:
        text, program = _EVERY, own_program(name)
    tokens = "token" if (pretraining.pause_interval or 1) == 1 else f"{pretraining.pause_interval} tokens"
    tokenizer = record.tokenizer
    pauses = f"`<pause>` is token {tokenizer.pause_id} of {tokenizer.vocab_size}."
    if count := tokenizer.distinct_pauses:
        last = tokenizer.pause_id + count - 1
        pauses = _DISTINCT.format(count=count, first=tokenizer.pause_id, last=last, tokenizer=tokenizer)
    return text.format(tokenizer=tokenizer, pretraining=pretraining, tokens=tokens, pauses=pauses, program=program)


def _pauses(pretraining: PretrainingRecord) -> str:
    words = "; ".join(_STRATEGIES.get(name, name) for name in pretraining.pauses.split("+"))
    if pretraining.pause_rate:
        words += f", {pretraining.pause_rate:g} per real token"
    if pretraining.rates:
        words += f" on average: {_RATES[pretraining.rates]}"
    if pretraining.filler is not None:
        words += f"; the model read the text {pretraining.filler!r} instead"
    return f"{words}; the model read the token before it instead" if pretraining.pause_inputs == "repeat" else words
