"""Pauses in a prompt: how many, where, which token, and how the prefix attends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pause_megatron.config.pausing import (
    MARKED_PLACEMENTS,
    FinetunePausing,
    InferencePausing,
    PausePlacement,
    PrefixAttention,
)
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import (
    Interleaving,
    PausedTokens,
    TokenIds,
    interleaved_prefix,
    marked_prefix,
    pause_prefix,
    split_after_marker,
    split_at_marker,
    without_pauses,
)
from pause_megatron.tokenizer import PAUSE_TOKEN

_DEFAULT_NUM_PAUSES_FT = 10


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
    repeats_tokens: bool = False
    """Whether a pause is the real token before it again; only with the placement ``every``."""
    prefix_attention: PrefixAttention = "causal"
    filler_id: int | None = None
    """Token to use instead of ``<pause>``; ``None`` uses ``<pause>``."""

    @property
    def bidirectional(self) -> bool:
        """Whether prompt and pauses attend to each other in both directions."""
        return self.prefix_attention == "bidirectional"

    def interleaving(self, folder: ModelFolder) -> Interleaving | None:
        """Return how pauses follow the tokens of a text, answer included; None if an answer has none."""
        if self.placement != "every" or not self.num_pauses:
            return None
        pause_ids = None if self.repeats_tokens else self._pause_ids(folder)
        return Interleaving(self.num_pauses, self.interval or 1, pause_ids)

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
        settings: dict[str, Any] = {"pause_ids": self._pause_ids(folder), "eod_id": folder.eod_id, "room": room}
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
        return pause_prefix(ids, self.num_pauses, at=at, start=start, **settings)

    def target(self, folder: ModelFolder, prefix: PausedTokens, ids: Sequence[int] | TokenIds) -> PausedTokens:
        """Return ``ids``, the tokens to predict after ``prefix``, with the pauses between them, if there are any."""
        if interleaving := self.interleaving(folder):
            return interleaving.insert(ids, prefix.num_real, ends_text=True)
        return without_pauses(ids)

    def _pause_ids(self, folder: ModelFolder) -> tuple[int, ...]:
        return folder.pause_ids if self.filler_id is None else (self.filler_id,)


def decided_finetuning(base: ModelFolder, asked: FinetunePausing) -> FinetunePausing:
    """Return ``asked`` with every setting decided: by default those of the paper.

    A model that was pretrained with pauses after every token keeps them, and attends causally.
    """
    own = _pretrained_pausing(base)
    placement = asked.pause_placement or (own.placement if own else "append")
    every, number = placement == "every", asked.num_pauses_ft
    if number is None:
        number = own.num_pauses if every and own else _DEFAULT_NUM_PAUSES_FT
    if asked.pause_interval and not every:
        raise UserError(f"--pause-interval {asked.pause_interval}: needs --pause-placement every; give it too")
    interval = asked.pause_interval or (own.interval if own else 1)
    return replace(
        asked,
        num_pauses_ft=number,
        pause_placement=placement,
        pause_interval=interval if every else None,
        prefix_attention="causal" if every else asked.prefix_attention or "bidirectional",
    )


def finetuning_pausing(base: ModelFolder, decided: FinetunePausing) -> Pausing:
    """Return the pauses to finetune ``base`` with, from :func:`decided_finetuning`; for a range, the largest number.

    Raises :class:`UserError` if ``base`` has no ``<pause>``.
    """
    assert decided.pause_placement
    assert decided.prefix_attention
    _, num_pauses = decided.range
    _require_pause(base, num_pauses, "--num-pauses-ft")
    return Pausing(
        num_pauses=num_pauses,
        placement=decided.pause_placement,
        marker=decided.pause_marker,
        interval=decided.pause_interval,
        repeats_tokens=decided.pause_placement == "every" and repeats_tokens(base),
        prefix_attention=decided.prefix_attention,
    )


def resolve_pausing(folder: ModelFolder, asked: InferencePausing) -> Pausing:
    """Return the pauses at inference: ``asked``, and everything else as the model was finetuned.

    For example, a model that was finetuned with prepended pauses gets them prepended even if ``asked`` sets another
    number. A model that is not finetuned pauses as it was pretrained if that was after every token; otherwise it gets
    no pauses. It attends causally, as in pretraining.

    Raises :class:`UserError` for a placement without its number, marker or interval, a marker or interval without its
    placement, a filler that is not one token, and pauses if the model has no ``<pause>``.
    """
    own = _finetuned_pausing(folder) or _pretrained_pausing(folder) or Pausing(num_pauses=0)
    num_pauses, filler_id = asked.only_number(), _filler_id(folder, asked.filler)
    placement = asked.pause_placement or own.placement
    every = placement == "every"
    if num_pauses is None:
        if own.num_pauses and _counted_per(placement) != _counted_per(own.placement):
            raise UserError(
                f"--pause-placement {placement}: {folder.path} was trained with {own.num_pauses} pauses for the"
                f" placement {own.placement}; give --num-pauses-inf too"
            )
        num_pauses = own.num_pauses
    if filler_id is None:
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
    return Pausing(
        num_pauses=num_pauses,
        placement=placement,
        marker=_marker(folder, asked.pause_marker, placement, own),
        interval=(asked.pause_interval or own.interval or 1) if every else None,
        repeats_tokens=every and filler_id is None and repeats_tokens(folder),
        prefix_attention="causal" if every else asked.prefix_attention or own.prefix_attention,
        filler_id=filler_id,
    )


def _counted_per(placement: PausePlacement) -> str:
    """Return what the number of pauses of ``placement`` is counted for."""
    return {"every": "token", "after-marker": "marker"}.get(placement, "prompt")


def _finetuned_pausing(folder: ModelFolder) -> Pausing | None:
    if (found := folder.finetuning) is None:
        return None
    return Pausing(
        num_pauses=found.num_pauses_ft,
        placement=found.pause_placement,
        marker=found.pause_marker,
        interval=found.pause_interval,
        prefix_attention=found.prefix_attention,
    )


def _pretrained_pausing(folder: ModelFolder) -> Pausing | None:
    """Return the pauses of pretraining if they followed every token, or every few tokens; else None."""
    pretraining = folder.pretraining
    if pretraining is None or not pretraining.pauses_per_token:
        return None
    return Pausing(num_pauses=pretraining.pauses_per_token, placement="every", interval=pretraining.pause_interval or 1)


def repeats_tokens(folder: ModelFolder) -> bool:
    """Whether pretraining read the real token before each pause again (``--pause-inputs repeat``)."""
    return folder.pretraining is not None and folder.pretraining.pause_inputs == "repeat"


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
        raise UserError(
            f"{flag} {num_pauses}: {folder.path} has no {PAUSE_TOKEN} token; "
            f"export a model whose tokenizer has one, or give {flag} 0"
        )


def _filler_id(folder: ModelFolder, filler: str | None) -> int | None:
    if filler is None:
        return None
    ids = folder.encode(filler, begins=False)
    if len(ids) == 1:
        return ids[0]
    if filler.isdecimal() and int(filler) < folder.model.config.vocab_size:
        return int(filler)
    raise UserError(
        f"--filler {filler!r}: {len(ids)} tokens in {folder.path}; give a text that encodes to one token, or a token id"
    )
