"""Pausing settings of finetuning, evaluation and generation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError

PrefixAttention = Literal["bidirectional", "causal"]
"""Attention within prompt and pauses; the target always attends causally."""
PausePlacement = Literal["append", "prepend", "before-marker", "after-marker", "every", "before-unlikely"]
"""Pauses after the prompt, before it, inside it before the last occurrence of a marker or after each one, after every
token of prompt and answer, or in finetuning only, before the least likely tokens of the target."""
InferencePlacement = Literal["append", "prepend", "before-marker", "after-marker", "every"]
"""Placements that do not need the answer."""
PauseInputs = Literal["pause", "repeat"]
"""Input at a pause: ``<pause>``, or the real token before it again."""
MARKED_PLACEMENTS: tuple[PausePlacement, ...] = ("before-marker", "after-marker")
"""Placements that need a marker."""


def pause_range(num_pauses_ft: int | str) -> tuple[int | None, int]:
    """Return the smallest and the largest number of pauses, e.g. (0, 50) for "0..50" and (None, 10) for 10.

    Raises :class:`UserError` if ``num_pauses_ft`` is neither a number nor a range.
    """
    fewest, dots, most = str(num_pauses_ft).partition("..")
    ends = (fewest, most) if dots else (fewest,)
    if not all(end.isdecimal() for end in ends) or (dots and int(fewest) > int(most)):
        raise UserError(f"--num-pauses-ft {num_pauses_ft}: give a number of at least 0, or a range such as 0..50")
    return (int(fewest), int(most)) if dots else (None, int(fewest))


def _check_placement(
    placement: PausePlacement | None, marker: str | None, interval: int | None, attention: PrefixAttention | None
) -> None:
    """Raise :class:`UserError` for settings that ``placement`` (None: that of the model) does not use."""
    if placement == "every" and attention == "bidirectional":
        raise UserError(
            "--prefix-attention bidirectional: --pause-placement every has pauses in the answer too, which attends"
            " causally; remove the flag"
        )
    if interval is not None:
        require_at_least(1, pause_interval=interval)
        if placement not in (None, "every"):
            raise UserError(
                f"--pause-interval {interval}: not used by --pause-placement {placement}; remove it, or give"
                " --pause-placement every"
            )
    if marker is not None and placement not in (None, *MARKED_PLACEMENTS):
        raise UserError(
            f"--pause-marker {marker!r}: not used by --pause-placement {placement}; remove it, or give"
            " --pause-placement before-marker or after-marker"
        )
    if marker == "":
        raise UserError("--pause-marker '': is empty; give a text that every prompt contains")


def check_pause_inputs(
    pause_inputs: PauseInputs | None, filler: str | None, placement: PausePlacement | None = None
) -> None:
    """Raise :class:`UserError` for two inputs at pauses, an empty filler, and a placement that cannot repeat tokens."""
    if filler is not None and pause_inputs is not None:
        raise UserError(f"--filler {filler!r}: cannot be combined with --pause-inputs {pause_inputs}; give one of them")
    if filler == "":
        raise UserError("--filler '': is empty; give a text such as '.', or remove it")
    if pause_inputs == "repeat" and placement in ("prepend", "before-marker", "before-unlikely"):
        raise UserError(
            f"--pause-inputs repeat: there may be no token before the pauses of --pause-placement {placement}; give"
            " append, after-marker or every"
        )


@dataclass(frozen=True, kw_only=True)
class FinetunePausing:
    """Pauses in the prompts that a model is finetuned on."""

    num_pauses_ft: int | str | None = None
    """Pauses in every prompt; after every token with --pause-placement every, after each marker with after-marker, or
    before each unlikely token with before-unlikely. 0: finetune without pauses. The paper uses 10 or 50, depending on
    the task. A range such as 0..50 draws a number for each example, anew in each epoch (default: 10, 1 with
    before-unlikely, or as in pretraining for a model pretrained with --pauses every)."""
    pause_placement: PausePlacement | None = None
    """Position of the pauses: after the prompt, before it, before the last --pause-marker in it, after each
    --pause-marker in it, after every token of prompt and answer, or before the least likely tokens of the answer
    (default: every for a model pretrained with --pauses every, else append)."""
    pause_marker: str | None = None
    """Text in the prompts to put the pauses in front of, such as 'Answer:', or behind, such as $'\\n\\n'; with the
    placements before-marker and after-marker (default: none)."""
    pause_interval: int | None = None
    """Tokens between two groups of pauses, with the placement every (default: as in pretraining, else 1)."""
    unlikely_tokens: int | None = None
    """Tokens of each answer to put pauses before, with the placement before-unlikely (default: 5)."""
    scoring_model: Path | None = None
    """Hugging Face folder of the model that finds the least likely tokens, with the same tokenizer; with the placement
    before-unlikely (default: --model, before finetuning)."""
    filler: str | None = None
    """Text to insert instead of <pause>, such as '.', token by token and from the start again at the end of the text;
    each run of pauses starts it anew. A number that is not one token is a token id (default: <pause>)."""
    pause_inputs: PauseInputs | None = None
    """Input at the pauses: <pause>, or the token before them again (repeat), a control without <pause>, with the
    placements append, after-marker and every (default: as in pretraining with the placement every, else pause)."""
    prefix_attention: PrefixAttention | None = None
    """Attention within prompt and pauses: in both directions, as in the paper, or causal (default: bidirectional;
    always causal with the placement every)."""
    hint_weight: float = 0.0
    """Weight of the loss at the pauses, whose labels are the 'hints' of the records (London and Kanade 2025); 0: no
    loss at pauses, as in the paper, and hints are not used."""

    def __post_init__(self) -> None:
        if self.num_pauses_ft is not None:
            pause_range(self.num_pauses_ft)
        self._check_hint_weight()
        if self.pause_placement in MARKED_PLACEMENTS and self.pause_marker is None:
            raise UserError(
                f"--pause-placement {self.pause_placement}: needs a marker; give --pause-marker, e.g. 'Answer:'"
            )
        # No default placement uses a marker.
        placement = self.pause_placement or (None if self.pause_marker is None else "append")
        _check_placement(placement, self.pause_marker, self.pause_interval, self.prefix_attention)
        check_pause_inputs(self.pause_inputs, self.filler, self.pause_placement)
        self._check_unlikely_tokens()

    @property
    def range(self) -> tuple[int | None, int]:
        """:func:`pause_range` of the number, which must have been given or decided."""
        assert self.num_pauses_ft is not None
        return pause_range(self.num_pauses_ft)

    def _check_unlikely_tokens(self) -> None:
        for name in ("unlikely_tokens", "scoring_model"):
            value = getattr(self, name)
            if value is not None and self.pause_placement != "before-unlikely":
                raise UserError(
                    f"--{name.replace('_', '-')} {value}: needs --pause-placement before-unlikely; give it too"
                )
        require_at_least(1, unlikely_tokens=1 if self.unlikely_tokens is None else self.unlikely_tokens)

    def _check_hint_weight(self) -> None:
        require_at_least(0, hint_weight=self.hint_weight)
        fewest, most = (None, 1) if self.num_pauses_ft is None else pause_range(self.num_pauses_ft)
        flag = f"--hint-weight {self.hint_weight:g}"
        if self.hint_weight and fewest is not None:
            raise UserError(
                f"{flag}: needs one number of pauses, not {self.num_pauses_ft}; give --num-pauses-ft {most}"
            )
        if self.hint_weight and not most:
            raise UserError(f"{flag}: there are no pauses with --num-pauses-ft 0; remove it, or give more pauses")
        if self.hint_weight and self.pause_placement not in (None, "append"):
            raise UserError(
                f"{flag}: hints label pauses between prompt and target, not --pause-placement {self.pause_placement};"
                " give --pause-placement append"
            )


@dataclass(frozen=True, kw_only=True)
class InferencePausing:
    """Pauses in the prompts of a trained model; by default as in its finetuning, or as in its pretraining with
    --pauses every."""

    num_pauses_inf: int | tuple[int, ...] | None = None
    """Pauses in every prompt; after every token with --pause-placement every, or after each marker with after-marker.
    'evaluate' takes several numbers, for example 0 10 25. By default as many as in finetuning, or in pretraining with
    --pauses every, else 0."""
    pause_placement: InferencePlacement | None = None
    """Position of the pauses: after the prompt, before it, before the last --pause-marker in it, after each
    --pause-marker in it, or after every token of prompt and answer. By default as in finetuning, or in pretraining with
    --pauses every, else append."""
    pause_marker: str | None = None
    """Text in the prompts to put the pauses in front of, such as 'Answer:', or behind, such as $'\\n\\n'; with the
    placements before-marker and after-marker. By default as in finetuning."""
    pause_interval: int | None = None
    """Tokens between two groups of pauses, with the placement every. By default as in finetuning or pretraining, else
    1."""
    filler: str | None = None
    """Text to insert instead of <pause>, such as '.', token by token and from the start again at the end of the text;
    each run of pauses starts it anew. A number that is not one token is a token id. By default as in finetuning, or in
    pretraining with --pauses every, else <pause>."""
    pause_inputs: PauseInputs | None = None
    """Input at the pauses: <pause>, or the token before them again (repeat), a control without <pause>, with the
    placements append, after-marker and every. By default as in finetuning, or in pretraining with --pauses every, else
    pause."""
    prefix_attention: PrefixAttention | None = None
    """Attention within prompt and pauses. By default as in finetuning, or causal if the model is not finetuned; always
    causal with the placement every."""

    def __post_init__(self) -> None:
        if self.num_pauses_inf == ():
            raise UserError("--num-pauses-inf: no number; give at least one, for example 0 10 25")
        for number in self.numbers:
            require_at_least(0, num_pauses_inf=number)
        if self.pause_placement not in (None, *get_args(InferencePlacement)):
            raise UserError(
                f"--pause-placement {self.pause_placement}: only 'finetune' knows the answer to put pauses into; give"
                " another placement, or remove the flag"
            )
        if len(set(self.numbers)) < len(self.numbers):
            raise UserError(f"--num-pauses-inf {' '.join(map(str, self.numbers))}: give each number only once")
        _check_placement(self.pause_placement, self.pause_marker, self.pause_interval, self.prefix_attention)
        check_pause_inputs(self.pause_inputs, self.filler, self.pause_placement)

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
