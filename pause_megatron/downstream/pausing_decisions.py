"""Decisions on pauses: the settings that the user gives, and those of the model's training for all others."""

from dataclasses import replace

from pause_megatron import log
from pause_megatron.config.pausing import (
    MARKED_PLACEMENTS,
    FinetunePausing,
    InferencePausing,
    PausePlacement,
    PrefixAttention,
    check_pause_inputs,
)
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing, filler_ids, finetuned_pausing, pretrained_pausing
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PAUSE_TOKEN

_DEFAULT_NUM_PAUSES_FT = 10
_DEFAULT_UNLIKELY_TOKENS = 5
"""As in the published code of DIT (Kim et al., Findings of ACL 2025), which also has one pause before each."""


def decided_finetuning(base: ModelFolder, asked: FinetunePausing) -> FinetunePausing:
    """Return ``asked`` with every setting decided: by default those of the paper.

    A model that was pretrained with pauses after every token keeps them, and attends causally.
    """
    own = pretrained_pausing(base)
    placement = asked.pause_placement or (own.placement if own else "append")
    every, unlikely, number = placement == "every", placement == "before-unlikely", asked.num_pauses_ft
    if number is None:
        number = own.num_pauses if every and own else 1 if unlikely else _DEFAULT_NUM_PAUSES_FT
    if asked.pause_interval and not every:
        raise UserError(f"--pause-interval {asked.pause_interval}: needs --pause-placement every; give it too")
    interval = asked.pause_interval or (own.interval if own else 1)
    filler, inputs = asked.filler, asked.pause_inputs
    if filler is inputs is None and every and own:
        filler, inputs = own.filler, "repeat" if own.repeats_tokens else None
    attention = _finetuned_attention(base, asked.prefix_attention, every=every)
    return replace(
        asked,
        filler=filler,
        pause_inputs=inputs,
        num_pauses_ft=number,
        pause_placement=placement,
        pause_interval=interval if every else None,
        unlikely_tokens=(asked.unlikely_tokens or _DEFAULT_UNLIKELY_TOKENS) if unlikely else None,
        prefix_attention=attention,
    )


def _finetuned_attention(base: ModelFolder, asked: PrefixAttention | None, *, every: bool) -> PrefixAttention:
    """Return the attention of the prefix: in both directions by default, if the model can read it.

    Raises :class:`UserError` if it cannot, but is asked to.
    """
    if every or asked == "causal":
        return "causal"
    problem = base.bidirectional_problem
    if problem and asked:
        raise _not_bidirectional(base, problem)
    if problem:
        log.warn(f"{base.path}: the prefix attends causally, because {problem}")
    return "causal" if problem else "bidirectional"


def _not_bidirectional(folder: ModelFolder, problem: str) -> UserError:
    return UserError(f"--prefix-attention bidirectional: not with {folder.path}: {problem}; give causal")


def finetuning_pausing(base: ModelFolder, decided: FinetunePausing) -> Pausing:
    """Return the pauses to finetune ``base`` with, from :func:`decided_finetuning`; for a range, the largest number.

    Raises :class:`UserError` if ``base`` has no ``<pause>`` and pauses are neither a filler nor repeated tokens.
    """
    assert decided.pause_placement
    assert decided.prefix_attention
    _, num_pauses = decided.range
    filler = decided.filler if num_pauses else None
    repeats = decided.pause_inputs == "repeat" and num_pauses > 0
    if filler is None and not repeats:
        _require_pause(base, num_pauses, "--num-pauses-ft")
    return Pausing(
        num_pauses=num_pauses,
        placement=decided.pause_placement,
        marker=decided.pause_marker,
        interval=decided.pause_interval,
        unlikely_tokens=decided.unlikely_tokens,
        repeats_tokens=repeats,
        filler=filler,
        filler_ids=filler_ids(base, filler),
        prefix_attention=decided.prefix_attention,
    )


def resolve_pausing(folder: ModelFolder, asked: InferencePausing) -> Pausing:
    """Return the pauses at inference: ``asked``, and everything else as the model was finetuned.

    For example, a model that was finetuned with prepended pauses gets them prepended even if ``asked`` sets another
    number. A model that is not finetuned pauses as it was pretrained if that was after every token; otherwise it gets
    no pauses. It attends causally, as in pretraining.

    Raises :class:`UserError` for a placement without its number, marker or interval, a marker or interval without its
    placement, a filler without tokens, and pauses if the model has no ``<pause>``.
    """
    own = finetuned_pausing(folder) or pretrained_pausing(folder) or Pausing(num_pauses=0)
    num_pauses = asked.only_number()
    placement = asked.pause_placement or own.placement
    repeats, filler = _inputs(asked, own, placement)
    every = placement == "every"
    if num_pauses is None:
        if own.num_pauses and _counted_per(placement) != _counted_per(own.placement):
            raise UserError(
                f"--pause-placement {placement}: {folder.path} was trained with {own.num_pauses} pauses for the"
                f" placement {own.placement}; give --num-pauses-inf too"
            )
        num_pauses = own.num_pauses
    if filler is None and not repeats:
        _require_pause(folder, num_pauses, "--num-pauses-inf")
    if asked.pause_interval and not every:
        raise UserError(
            f"--pause-interval {asked.pause_interval}: {folder.path} has the placement {placement}; give"
            " --pause-placement every too"
        )
    if every and asked.prefix_attention == "bidirectional":
        raise UserError(
            f"--prefix-attention bidirectional: {folder.path} pauses after every token of the answer too, which"
            " attends causally; remove the flag, or give another --pause-placement"
        )
    attention = "causal" if every else asked.prefix_attention or own.prefix_attention
    if attention == "bidirectional" != own.prefix_attention and (problem := folder.bidirectional_problem):
        raise _not_bidirectional(folder, problem)
    return Pausing(
        num_pauses=num_pauses,
        placement=placement,
        marker=_marker(folder, asked.pause_marker, placement, own),
        interval=(asked.pause_interval or own.interval or 1) if every else None,
        repeats_tokens=repeats,
        prefix_attention=attention,
        filler=filler,
        filler_ids=filler_ids(folder, filler),
    )


def _inputs(asked: InferencePausing, own: Pausing, placement: PausePlacement) -> tuple[bool, str | None]:
    """Return whether pauses repeat tokens, and the filler: those ``asked`` for, or else those of training.

    Raises :class:`UserError` if ``placement`` cannot repeat tokens.
    """
    if asked.filler is not None:
        return False, asked.filler
    repeats = own.repeats_tokens if asked.pause_inputs is None else asked.pause_inputs == "repeat"
    check_pause_inputs("repeat" if repeats else None, None, placement)
    return repeats, None if asked.pause_inputs else own.filler


def _counted_per(placement: PausePlacement) -> str:
    """Return what the number of pauses of ``placement`` is counted for."""
    return {"every": "token", "after-marker": "marker"}.get(placement, "prompt")


def _marker(folder: ModelFolder, asked: str | None, placement: PausePlacement, own: Pausing) -> str | None:
    """Return the marker of ``placement``; raises :class:`UserError` for one without the other."""
    if placement not in MARKED_PLACEMENTS:
        if asked is not None:
            raise UserError(
                f"--pause-marker {asked!r}: {folder.path} has the placement {placement}; give --pause-placement"
                " before-marker or after-marker too"
            )
        return None
    if marker := asked or own.marker:
        return marker
    raise UserError(
        f"--pause-placement {placement}: {folder.path} was not finetuned with a marker; give --pause-marker"
    )


def _require_pause(folder: ModelFolder, num_pauses: int, flag: str) -> None:
    if num_pauses and folder.pause_id is None:
        adding = "give --add-pause normal" if flag == "--num-pauses-ft" else "finetune it with `finetune --add-pause`"
        raise UserError(f"{flag} {num_pauses}: {folder.path} has no {PAUSE_TOKEN} token; {adding}, or give {flag} 0")
