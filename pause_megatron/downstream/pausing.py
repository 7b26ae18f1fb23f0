"""Pauses in a prompt: how many, where, which token, and how the prefix attends."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pause_megatron.config.pausing import PauseInputs, PausePlacement, PrefixAttention
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.pauses.pause_ids import cycled, ids_of_filler
from pause_megatron.pauses.prompts import (
    Interleaving,
    PausedTokens,
    TokenIds,
    insert_runs,
    interleaved_prefix,
    marked_prefix,
    pause_prefix,
    split_after_marker,
    split_at_marker,
    without_pauses,
)


@dataclass(frozen=True, kw_only=True)
class Pausing:
    """Pauses of every prompt, with every setting decided."""

    num_pauses: int
    """Pauses in a prompt; after each group of tokens with the placement ``every``, after each marker with
    ``after-marker``."""
    placement: PausePlacement = "append"
    marker: str | None = None
    """Text to put the pauses in front of or behind, if ``placement`` is ``before-marker`` or ``after-marker``."""
    interval: int | None = None
    """Real tokens between two groups of pauses, if ``placement`` is ``every``; else None."""
    unlikely_tokens: int | None = None
    """Tokens of a target with pauses before them, if ``placement`` is ``before-unlikely``, in finetuning; else None."""
    repeats_tokens: bool = False
    """Whether a pause is the real token before it again."""
    prefix_attention: PrefixAttention = "causal"
    filler: str | None = None
    """Text to use instead of ``<pause>``; ``None`` uses ``<pause>``."""
    filler_ids: tuple[int, ...] | None = None
    """Ids of ``filler``, which a run of pauses repeats from its start."""

    @property
    def bidirectional(self) -> bool:
        """Whether prompt and pauses attend to each other in both directions."""
        return self.prefix_attention == "bidirectional"

    @property
    def shared_run(self) -> int:
        """Pauses at the end of a prefix after which its states do not depend on their number; the others are fixed."""
        return self.num_pauses if self.placement == "append" and not self.bidirectional else 0

    def interleaving(self, folder: ModelFolder) -> Interleaving | None:
        """Return how pauses follow the tokens of a text, answer included; None if an answer has none."""
        if self.placement != "every" or not self.num_pauses:
            return None
        return Interleaving(self.num_pauses, self.interval or 1, self.pause_ids(folder))

    def prefix(self, folder: ModelFolder, text: str, ids: Sequence[int], room: int) -> PausedTokens:
        """Return the prompt ``text`` with its pauses; ``ids`` is the encoded ``text``.

        ``room`` is the model's context without the real tokens that follow the prompt. With a marker, the texts before
        and after pauses are encoded separately.

        Raises :class:`UserError` if the prompt lacks the marker, or if the pauses leave no room for the prompt.
        """
        before = list(folder.bos_ids)
        start, at = len(before) if list(ids[: len(before)]) == before else 0, None
        if interleaving := self.interleaving(folder):
            following = folder.context_length - room
            most = folder.context_length
            if not folder.shares_positions:
                most = interleaving.most_tokens(most)
            return interleaved_prefix(
                ids, interleaving, eod_id=folder.eod_id, most=most, following=following, start=start
            )
        settings: dict[str, Any] = {"pause_ids": self.pause_ids(folder), "eod_id": folder.eod_id, "room": room}
        settings["shares_positions"] = folder.shares_positions
        if self.placement == "after-marker":
            assert self.marker
            texts = split_after_marker(text, self.marker)
            parts = [folder.encode(part, begins=number == 0) for number, part in enumerate(texts)]
            return marked_prefix(parts, self.num_pauses, start=len(folder.bos_ids), **settings)
        if self.placement == "prepend":
            at = start
        elif self.placement == "before-marker":
            assert self.marker
            first, second = split_at_marker(text, self.marker)
            before = folder.encode(first)
            ids, at = [*before, *folder.encode(second, begins=False)], len(before)
            start = len(folder.bos_ids)
        number = 0 if self.placement == "before-unlikely" else self.num_pauses
        return pause_prefix(ids, number, at=at, start=start, **settings)

    def target(
        self, folder: ModelFolder, prefix: PausedTokens, ids: Sequence[int] | TokenIds, places: Sequence[int] = ()
    ) -> PausedTokens:
        """Return ``ids``, the tokens to predict after ``prefix``, with the pauses between them, if there are any.

        ``places`` are the indices of the least likely tokens, in ascending order, for ``before-unlikely``.
        """
        if places:
            return insert_runs(np.asarray(ids, dtype=np.int64), places, self.num_pauses, self.pause_ids(folder))
        if interleaving := self.interleaving(folder):
            return interleaving.insert(ids, prefix.num_real, ends_text=True)
        return without_pauses(ids)

    def pause_ids(self, folder: ModelFolder) -> tuple[int, ...] | None:
        """Return the ids of a run of pauses, the last one repeated; None if the token before the run is repeated."""
        if self.repeats_tokens:
            return None
        return folder.pause_ids if self.filler_ids is None else cycled(self.filler_ids, self.num_pauses)


def finetuned_pausing(folder: ModelFolder) -> Pausing | None:
    """Return the pauses of finetuning that inference keeps; None if the model is not finetuned.

    A model that was finetuned with pauses before unlikely tokens gets none: the tokens of its answer are not known.
    """
    if (found := folder.finetuning) is None:
        return None
    if found.pause_placement == "before-unlikely":
        return Pausing(num_pauses=0, prefix_attention=found.prefix_attention)
    return Pausing(
        num_pauses=found.num_pauses_ft,
        placement=found.pause_placement,
        marker=found.pause_marker,
        interval=found.pause_interval,
        repeats_tokens=(found.pause_inputs or _inherited_inputs(folder, found.pause_placement)) == "repeat",
        filler=found.filler,
        prefix_attention=found.prefix_attention,
    )


def pretrained_pausing(folder: ModelFolder) -> Pausing | None:
    """Return the pauses of pretraining if they followed every token, or every few tokens; else None."""
    pretraining = folder.pretraining
    if pretraining is None or not pretraining.pauses_per_token:
        return None
    return Pausing(
        num_pauses=pretraining.pauses_per_token,
        placement="every",
        interval=pretraining.pause_interval or 1,
        repeats_tokens=repeats_tokens(folder),
        filler=pretraining.filler,
    )


def recorded_inputs(base: ModelFolder, pausing: Pausing) -> PauseInputs | None:
    """Return the record of the inputs at pauses in a finetuning of ``base``; None if they are those of older files."""
    inputs: PauseInputs = "repeat" if pausing.repeats_tokens else "pause"
    inherited = _inherited_inputs(base, pausing.placement)
    return None if inputs == inherited or not pausing.num_pauses else inputs


def _inherited_inputs(folder: ModelFolder, placement: PausePlacement) -> PauseInputs:
    """Return the inputs of a finetuned model whose file has none: with ``every``, those of pretraining."""
    return "repeat" if placement == "every" and repeats_tokens(folder) else "pause"


def repeats_tokens(folder: ModelFolder) -> bool:
    """Whether pretraining read the real token before each pause again (``--pause-inputs repeat``)."""
    return folder.pretraining is not None and folder.pretraining.pause_inputs == "repeat"


def filler_ids(folder: ModelFolder, filler: str | None) -> tuple[int, ...] | None:
    """Return the ids of the text ``filler``, or of a token given as a number; None without one.

    Raises :class:`UserError` for a text without tokens.
    """
    if filler is None:
        return None
    return ids_of_filler(filler, partial(folder.encode, begins=False), folder.model.config.get_text_config().vocab_size)
