"""Pauses in a prompt: how many, where, which token, and how the prefix attends.

Finetuning takes them from its flags. Evaluation, generation and the Python API take every setting that the user leaves
out from the model's ``finetune.json``, in :func:`resolve_pausing`. :mod:`pause_megatron.pauses.prompts` puts the ids
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.config.downstream import (
    FinetunePausing,
    InferencePausing,
    PausePlacement,
    PrefixAttention,
    pause_range,
)
from pause_megatron.downstream.model_folder import PAUSE_TOKEN, ModelFolder
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import TokenIds, pause_prefix, split_at_marker


@dataclass(frozen=True, kw_only=True)
class Pausing:
    """Pauses of every prompt, with nothing left open."""

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
        """The prompt ``text`` with its pauses, as ids of shape [at most ``room``]; ``ids`` is ``text``, encoded.

        With a marker the text on each side of the pauses is encoded separately.

        Raises :class:`UserError` if the prompt lacks the marker, or if the pauses leave no room for the prompt.
        """
        at = None
        if self.placement == "prepend":
            at = 0
        elif self.placement == "before-marker":
            assert self.marker
            before, after = (_encode(folder, half) for half in split_at_marker(text, self.marker))
            ids, at = [*before, *after], len(before)
        pause_id = folder.pause_id if self.filler_id is None else self.filler_id
        return pause_prefix(ids, self.num_pauses, pause_id=pause_id, eod_id=folder.eod_id, room=room, at=at)


def finetuning_pausing(base: ModelFolder, asked: FinetunePausing) -> Pausing:
    """The pauses to finetune ``base`` with; for a range of numbers, the largest.

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
    """The pauses of a prompt at inference: ``asked``, and the rest as the model was finetuned.

    A model that is not finetuned gets no pauses and attends causally, as in pretraining. If only the number is
    ``asked``, placement, marker and attention still come from finetuning.

    Raises :class:`UserError` for a placement without a marker, a marker without its placement, a filler that is not
    one token, and pauses of a model that has no ``<pause>``.
    """
    finetuning = folder.finetuning or {"num_pauses_ft": 0}
    num_pauses, filler_id = asked.only_number(), _filler_id(folder, asked.filler)
    if num_pauses is None:
        num_pauses = int(finetuning["num_pauses_ft"])
    if filler_id is None:
        _require_pause(folder, num_pauses, "--num-pauses-inf")
    placement, marker = _placement(folder, asked)
    return Pausing(
        num_pauses=num_pauses,
        placement=placement,
        marker=marker,
        prefix_attention=asked.prefix_attention or finetuning.get("prefix_attention", "causal"),
        filler_id=filler_id,
    )


def _placement(folder: ModelFolder, asked: InferencePausing) -> tuple[PausePlacement, str | None]:
    finetuning = folder.finetuning or {}
    placement: PausePlacement = asked.pause_placement or finetuning.get("pause_placement", "append")
    if placement != "before-marker":
        if asked.pause_marker is not None:
            raise UserError(
                f"--pause-marker {asked.pause_marker!r}: the placement of {folder.path} is {placement}; give"
                " --pause-placement before-marker too"
            )
        return placement, None
    marker = asked.pause_marker or finetuning.get("pause_marker")
    if not marker:
        raise UserError(
            f"--pause-placement before-marker: {folder.path} was not finetuned with a marker; give --pause-marker"
        )
    return placement, marker


def _require_pause(folder: ModelFolder, num_pauses: int, flag: str) -> None:
    if num_pauses and folder.pause_id is None:
        raise UserError(
            f"{flag} {num_pauses}: {folder.path} has no {PAUSE_TOKEN} token; "
            f"export a model whose tokenizer has one, or give {flag} 0"
        )


def _filler_id(folder: ModelFolder, filler: str | None) -> int | None:
    if filler is None:
        return None
    ids = _encode(folder, filler)
    if len(ids) == 1:
        return ids[0]
    if filler.isdecimal() and int(filler) < folder.model.config.vocab_size:
        return int(filler)
    raise UserError(
        f"--filler {filler!r}: {len(ids)} tokens in {folder.path}; give a text that encodes to one token, or a token id"
    )


def _encode(folder: ModelFolder, text: str) -> list[int]:
    ids: list[int] = folder.tokenizer.encode(text, add_special_tokens=False)
    return ids
