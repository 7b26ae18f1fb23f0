"""Pausing settings of finetuning, evaluation and generation."""

from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError

PrefixAttention = Literal["bidirectional", "causal"]
"""Attention within prompt and pauses; the target always attends causally."""
PausePlacement = Literal["append", "prepend", "before-marker"]
"""Pauses after the prompt, before it, or inside it, before the last occurrence of a marker."""


def pause_range(num_pauses_ft: int | str) -> tuple[int | None, int]:
    """Return the smallest and the largest number of pauses, e.g. (0, 50) for "0..50" and (None, 10) for 10.

    Raises :class:`UserError` if ``num_pauses_ft`` is neither a number nor a range.
    """
    fewest, dots, most = str(num_pauses_ft).partition("..")
    ends = (fewest, most) if dots else (fewest,)
    if not all(end.isdecimal() for end in ends) or (dots and int(fewest) > int(most)):
        raise UserError(f"--num-pauses-ft {num_pauses_ft}: give a number of at least 0, or a range such as 0..50")
    return (int(fewest), int(most)) if dots else (None, int(fewest))


def _check_marker(placement: PausePlacement | None, marker: str | None) -> None:
    if marker is not None and placement not in (None, "before-marker"):
        raise UserError(
            f"--pause-marker {marker!r}: not used by --pause-placement {placement}; remove it, or give"
            " --pause-placement before-marker"
        )


@dataclass(frozen=True, kw_only=True)
class FinetunePausing:
    """Pauses in the prompts that a model is finetuned on."""

    num_pauses_ft: int | str = 10
    """Pauses in every prompt (tokens); 0: finetune without pauses. The paper uses 10 or 50, depending on the task. A
    range such as 0..50 draws a number for each example, anew in each epoch."""
    pause_placement: PausePlacement = "append"
    """Position of the pauses: after the prompt, before it, or before the last --pause-marker in it."""
    pause_marker: str | None = None
    """Text to put the pauses in front of, such as 'Answer:'; with the placement before-marker (default: none)."""
    prefix_attention: PrefixAttention = "bidirectional"
    """Attention within prompt and pauses: in both directions, as in the paper, or causal."""

    def __post_init__(self) -> None:
        pause_range(self.num_pauses_ft)
        if self.pause_placement == "before-marker" and not self.pause_marker:
            raise UserError("--pause-placement before-marker: needs a marker; give --pause-marker, e.g. 'Answer:'")
        _check_marker(self.pause_placement, self.pause_marker)


@dataclass(frozen=True, kw_only=True)
class InferencePausing:
    """Pauses in the prompts of a trained model; by default as in its finetuning."""

    num_pauses_inf: int | tuple[int, ...] | None = None
    """Pauses in every prompt (tokens); 'evaluate' takes several numbers, for example 0 10 25. By default as many as in
    finetuning, or 0 if the model is not finetuned."""
    pause_placement: PausePlacement | None = None
    """Position of the pauses: after the prompt, before it, or before the last --pause-marker in it. By default as in
    finetuning, or append if the model is not finetuned."""
    pause_marker: str | None = None
    """Text to put the pauses in front of, such as 'Answer:', with the placement before-marker. By default as in
    finetuning."""
    filler: str | None = None
    """Token to use instead of <pause>, such as '.': a text of one token, or a token id (default: <pause>)."""
    prefix_attention: PrefixAttention | None = None
    """Attention within prompt and pauses. By default as in finetuning, or causal if the model is not finetuned."""

    def __post_init__(self) -> None:
        if self.num_pauses_inf == ():
            raise UserError("--num-pauses-inf: no number; give at least one, for example 0 10 25")
        for number in self.numbers:
            require_at_least(0, num_pauses_inf=number)
        if len(set(self.numbers)) < len(self.numbers):
            raise UserError(f"--num-pauses-inf {' '.join(map(str, self.numbers))}: give each number only once")
        _check_marker(self.pause_placement, self.pause_marker)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of pauses; empty to use that of finetuning."""
        given = self.num_pauses_inf
        return given if isinstance(given, tuple) else () if given is None else (given,)

    def only_number(self) -> int | None:
        """Return the number of pauses, or None to use that of finetuning. Raises :class:`UserError` for several."""
        if len(self.numbers) > 1:
            numbers = " ".join(map(str, self.numbers))
            raise UserError(f"--num-pauses-inf {numbers}: only 'evaluate' takes several numbers; give one")
        return self.numbers[0] if self.numbers else None
