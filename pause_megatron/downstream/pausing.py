"""How a prompt pauses downstream: how often, where, and with which token. Finetuning, evaluation and generation agree
on it here; the ids themselves are put together in ``pauses.prompts``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pause_megatron.config.downstream import PausePlacement
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import TokenIds, pause_prefix, split_at_marker


@dataclass(frozen=True, kw_only=True)
class Pausing:
    """Pauses of every prompt."""

    num_pauses: int
    placement: PausePlacement = "append"
    marker: str | None = None
    """Text the pauses are put before, where they are placed by it."""
    filler_id: int | None = None
    """The token that stands where ``<pause>`` would; None: ``<pause>``."""

    def prefix(self, folder: ModelFolder, text: str, ids: Sequence[int], room: int) -> TokenIds:
        """The prompt ``text``, whose ids are ``ids``, with its pauses, in at most ``room`` positions.

        Where a marker places the pauses, the text on each side of them is encoded by itself.
        """
        at = None
        if self.placement == "prepend":
            at = 0
        elif self.placement == "before-marker":
            assert self.marker, "the settings see to it"
            before, after = (_encode(folder, half) for half in split_at_marker(text, self.marker))
            ids, at = [*before, *after], len(before)
        pause_id = folder.pause_id if self.filler_id is None else self.filler_id
        return pause_prefix(ids, self.num_pauses, pause_id=pause_id, eod_id=folder.eod_id, room=room, at=at)


def filler_id(folder: ModelFolder, filler: str | None) -> int | None:
    """The id of ``--filler``: a text that is one token, or a token's number; None where it is not given.

    Raises :class:`UserError` when it is neither.
    """
    if filler is None:
        return None
    ids = _encode(folder, filler)
    if len(ids) == 1:
        return ids[0]
    if filler.isdecimal() and int(filler) < folder.model.config.vocab_size:
        return int(filler)
    raise UserError(f"--filler {filler!r}: {len(ids)} tokens in {folder.path}; give a text of one, or a token's number")


def _encode(folder: ModelFolder, text: str) -> list[int]:
    ids: list[int] = folder.tokenizer.encode(text, add_special_tokens=False)
    return ids
