"""Model card of a finetuned model: how it pauses, and what programs without support for pauses do with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult

from pause_megatron.conversion.card_parts import (
    CardOrigin,
    appending_program,
    card_metadata,
    own_program,
    pipeline_program,
)
from pause_megatron.records.finetuning import FinetuneRecord

_PLACEMENTS = {
    "append": "after the prompt",
    "prepend": "before the prompt",
    "before-marker": "in the prompt, before the last {marker!r}",
    "after-marker": "in the prompt, after each {marker!r}",
    "every": "after every {interval} of prompt and answer",
    "before-unlikely": "in training, before the {unlikely} least likely tokens of each answer; none at inference",
}
_CARD = """{metadata}
# {name}

A language model of {parameters:,} parameters ({architecture}), finetuned on the task `{record.task}` from `{model}` by
pause_megatron, which pause-trains models as *Think before you speak* does (Goyal et al., ICLR 2024, arXiv 2310.02226).

| | |
|---|---|
| pauses | {number} |
| placement | {placement} |
| input at a pause | {inputs} |
| attention of prompt and pauses | {attention} |
| finetuning | {record.kept_step:,} steps, seed {record.seed}, last loss {record.final_loss:.3f} |
| variant | `{record.variant}` |

## Use

With pause_megatron, the model pauses as it was finetuned:

{own}

{stock}
"""
_NO_PAUSES = "Other programs read the same tokens as in its evaluation, because there are no pauses at inference."
_CAUSAL = " They also let the prompt attend only backwards, and this model learned to read it in both directions."
_NOT_PAUSING = """**Other programs do not pause with this model.** Stock transformers, vLLM, llama.cpp and the `hf` of
lm-evaluation-harness read the prompt without pauses. Their answers are not those of the setting above, and they do not
warn of it.{causal}"""
_APPENDING = """In stock transformers you can append the pauses as ids; the characters `<pause>` in a text are text:

{program}

To serve the model, make a copy whose tokenizer pauses: `pause-megatron bake --model {name} --output {name}-baked`."""
_BAKED = """**Stock programs pause with this model.** Its tokenizer appends {baked} pauses to every prompt that it
encodes with special tokens, and so does its chat template:

{program}"""


@dataclass(frozen=True, kw_only=True)
class FinetunedModel:
    """What a card says of a finetuned model that its ``finetune.json`` does not."""

    name: str
    """Name to load it by: of its folder, or on the hub."""
    architecture: str
    parameters: int
    pause_ids: tuple[int, ...]
    """Ids of the distinct pauses, or of ``<pause>``; empty without any."""
    baked_pauses: int
    """Pauses that its tokenizer appends."""


def finetuned_card(
    model: FinetunedModel, record: FinetuneRecord, origin: CardOrigin, results: Sequence[EvalResult] = ()
) -> str:
    """Return the Markdown of the card."""
    fewest, number = record.min_num_pauses_ft, record.num_pauses_ft
    return _CARD.format(
        metadata=card_metadata(model.name, origin, results),
        name=model.name,
        parameters=model.parameters,
        architecture=model.architecture,
        record=record,
        model=origin.hub_name or record.model_name,
        number=number if fewest is None else f"{fewest} to {number}, drawn for each example",
        placement=_placement(record),
        inputs=_inputs(record),
        attention="in both directions" if record.prefix_attention == "bidirectional" else "causal",
        own=own_program(model.name),
        stock=_stock(model, record),
    )


def _placement(record: FinetuneRecord) -> str:
    if not record.num_pauses_ft:
        return "none"
    interval = record.pause_interval or 1
    return _PLACEMENTS[record.pause_placement].format(
        marker=record.pause_marker,
        interval="token" if interval == 1 else f"{interval} tokens",
        unlikely=record.unlikely_tokens,
    )


def _inputs(record: FinetuneRecord) -> str:
    if not record.num_pauses_ft:
        return "none"
    if record.filler is not None:
        return f"the text {record.filler!r}"
    return "the token before it again" if record.pause_inputs == "repeat" else "`<pause>`"


def _stock(model: FinetunedModel, record: FinetuneRecord) -> str:
    both_ways = record.prefix_attention == "bidirectional"
    causal = _CAUSAL * both_ways
    if model.baked_pauses:
        text = _BAKED.format(baked=model.baked_pauses, program=pipeline_program(model.name))
        return f"{text}\n\nBut other programs{causal.removeprefix(' They also')}" if both_ways else text
    if not record.num_pauses_ft or record.pause_placement == "before-unlikely":
        return _NO_PAUSES + causal
    text = _NOT_PAUSING.format(causal=causal)
    if model.pause_ids and not both_ways and can_append(record):
        run = [model.pause_ids[min(index, len(model.pause_ids) - 1)] for index in range(record.num_pauses_ft)]
        text += "\n\n" + _APPENDING.format(program=appending_program(model.name, run), name=model.name)
    return text


def can_append(record: FinetuneRecord) -> bool:
    """Whether the pauses of finetuning are ``<pause>`` tokens after the prompt, which any program can append."""
    repeats = record.pause_inputs == "repeat"
    return record.pause_placement == "append" and record.filler is None and not repeats
