"""Pauses in a prompt: how many, where, which token, and how the prefix attends."""

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.config.pausing import (
    FinetunePausing,
    InferencePausing,
    PausePlacement,
    PrefixAttention,
    pause_range,
)
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import TokenIds, pause_prefix, split_at_marker
from pause_megatron.tokenizer import PAUSE_TOKEN


@dataclass(frozen=True, kw_only=True)
class Pausing:
    """Pauses of every prompt, with every setting decided."""

    num_pauses: int
    placement: PausePlacement = "append"
    marker: str | None = None
    """Text to put the pauses in front of, if ``placement`` is ``before-marker``."""
    prefix_attention: PrefixAttention = "causal"
    filler_id: int | None = None
    """Token to use instead of ``<pause>``; ``None`` uses ``<pause>``."""

    @property
    def bidirectional(self) -> bool:
        """Whether prompt and pauses attend to each other in both directions."""
        return self.prefix_attention == "bidirectional"

    def prefix(self, folder: ModelFolder, text: str, ids: Sequence[int], room: int) -> TokenIds:
        """Return the prompt ``text`` with its pauses, [at most ``room`` tokens]; ``ids`` is the encoded ``text``.

        With a marker, the text before the pauses and the text after them are encoded separately.

        Raises :class:`UserError` if the prompt lacks the marker, or if the pauses leave no room for the prompt.
        """
        before = list(folder.bos_ids)
        start, at = len(before) if list(ids[: len(before)]) == before else 0, None
        if self.placement == "prepend":
            at = start
        elif self.placement == "before-marker":
            assert self.marker
            first, second = split_at_marker(text, self.marker)
            before = folder.encode(first)
            ids, at = [*before, *folder.encode(second, begins=False)], len(before)
            start = len(folder.bos_ids)
        pause_id = folder.pause_id if self.filler_id is None else self.filler_id
        return pause_prefix(
            ids, self.num_pauses, pause_id=pause_id, eod_id=folder.eod_id, room=room, at=at, start=start
        )


def finetuning_pausing(base: ModelFolder, asked: FinetunePausing) -> Pausing:
    """Return the pauses to finetune ``base`` with; for a range of numbers, the largest.

    Raises :class:`UserError` if ``base`` has no ``<pause>``.
    """
    _, num_pauses = pause_range(asked.num_pauses_ft)
    _require_pause(base, num_pauses, "--num-pauses-ft")
    return Pausing(
        num_pauses=num_pauses,
        placement=asked.pause_placement,
        marker=asked.pause_marker,
        prefix_attention=asked.prefix_attention,
    )


def resolve_pausing(folder: ModelFolder, asked: InferencePausing) -> Pausing:
    """Return the pauses of a prompt at inference: ``asked``, and everything else as the model was finetuned.

    For example, a model that was finetuned with prepended pauses gets them prepended even if ``asked`` sets another
    number. A model that is not finetuned gets no pauses and attends causally, as in pretraining.

    Raises :class:`UserError` for a placement without a marker, a marker without its placement, a filler that is not
    one token, and pauses if the model has no ``<pause>``.
    """
    finetuning = folder.finetuning
    num_pauses, filler_id = asked.only_number(), _filler_id(folder, asked.filler)
    if num_pauses is None:
        num_pauses = finetuning.num_pauses_ft if finetuning else 0
    if filler_id is None:
        _require_pause(folder, num_pauses, "--num-pauses-inf")
    placement = asked.pause_placement or (finetuning.pause_placement if finetuning else "append")
    marker = asked.pause_marker
    if placement == "before-marker":
        marker = marker or (finetuning.pause_marker if finetuning else None)
        if not marker:
            raise UserError(
                f"--pause-placement {placement}: {folder.path} was not finetuned with a marker; give --pause-marker"
            )
    elif marker is not None:
        raise UserError(
            f"--pause-marker {marker!r}: {folder.path} has the placement {placement}; give --pause-placement"
            " before-marker too"
        )
    return Pausing(
        num_pauses=num_pauses,
        placement=placement,
        marker=marker,
        prefix_attention=asked.prefix_attention or (finetuning.prefix_attention if finetuning else "causal"),
        filler_id=filler_id,
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
