"""Placement of pauses in prompts, for finetuning, evaluation and generation.

A prompt is ``context, M pauses``: the prefix. The last pause predicts the first target token, and outputs at earlier
positions are ignored (Goyal et al. 2024, section 3.2). At inference, pauses can also be placed before the context (the
paper's ablation) or inside it. Pauses are ids, not text, so no wording of a prompt can produce or break one. If a
prompt is too long, its oldest context tokens are dropped, but never pauses, target tokens or a beginning-of-text token.
Pauses after each marker are dropped with the marker that they follow.

A model that was pretrained with pauses after every token has them after every token of context and target, see
:class:`Interleaving`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.pauses.pause_ids import ids_of_run

IGNORE_INDEX = -100
"""Label of a position without loss, by the convention of PyTorch and Hugging Face."""

TokenIds = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PausedTokens:
    """Token ids, and which of them are pauses. Ids do not tell: a filler or a repeated token can be a pause too."""

    ids: TokenIds
    """Shape [tokens]."""
    is_pause: NDArray[np.bool_]
    """Shape [tokens]."""

    def __len__(self) -> int:
        return len(self.ids)

    def tolist(self) -> list[int]:
        """Return the ids."""
        ids: list[int] = self.ids.tolist()
        return ids

    @property
    def num_real(self) -> int:
        """Number of tokens that are not pauses."""
        return len(self.ids) - int(self.is_pause.sum())


def without_pauses(tokens: Sequence[int] | TokenIds) -> PausedTokens:
    """Return ``tokens``, shape [tokens], none of which is a pause."""
    return PausedTokens(np.asarray(tokens, dtype=np.int64), np.zeros(len(tokens), dtype=np.bool_))


def insert_runs(
    tokens: TokenIds, places: Sequence[int] | NDArray[np.integer], num_pauses: int, pause_ids: Sequence[int] | None
) -> PausedTokens:
    """Return ``tokens``, shape [tokens], with a run of ``num_pauses`` pauses before each of ``places``.

    ``places`` are indices of ``tokens`` in ascending order, shape [runs]; the number of tokens is the place at the end.
    ``pause_ids`` are those of distinct pauses, of a filler or the only one, and may be empty only if ``num_pauses`` is
    0. None: a pause is the token before its run again, or the first token if there is none.
    """
    before = np.repeat(np.asarray(places, dtype=np.int64), num_pauses)  # the place of each pause, [pauses]
    if pause_ids is None:
        pauses = tokens[np.maximum(before - 1, 0)]
    elif num_pauses:
        assert pause_ids, "a model without <pause> cannot pause"
        pauses = np.tile(ids_of_run(pause_ids, num_pauses), len(places))
    else:
        pauses = np.empty(0, dtype=np.int64)
    is_pause = np.insert(np.zeros(len(tokens), dtype=np.bool_), before, True)
    return PausedTokens(np.insert(tokens, before, pauses), is_pause)


@dataclass(frozen=True)
class PausedExample:
    """One training example: context, pauses and target."""

    prefix: PausedTokens
    """Context with its pauses; shape [prefix]."""
    target: PausedTokens
    """Tokens to predict, with pauses between them if they follow every token; shape [target]."""
    hints: TokenIds | None = None
    """Labels at the pauses, which end the prefix; shape [pauses]. None: pauses have no labels."""

    @property
    def input_ids(self) -> TokenIds:
        """Prefix, then target; shape [sequence]."""
        return np.concatenate([self.prefix.ids, self.target.ids])

    @property
    def labels(self) -> TokenIds:
        """``input_ids`` with :data:`IGNORE_INDEX` at the context, and at pauses without hints; shape [sequence].

        Labels are not shifted: Hugging Face models compare the output at position k with the label at k + 1, so that at
        the last pause before a target token with that token, and that before the first pause with the first hint.
        """
        hints = np.empty(0, dtype=np.int64) if self.hints is None else self.hints
        ignored = np.full(len(self.prefix) - len(hints), IGNORE_INDEX, dtype=np.int64)
        learned = np.where(self.target.is_pause, IGNORE_INDEX, self.target.ids)
        return np.concatenate([ignored, hints, learned])


@dataclass(frozen=True)
class Interleaving:
    """``num_pauses`` pauses after every ``interval``-th real token of a text, counted from its first.

    Context and target are one text. For example, ``num_pauses`` 2 and ``interval`` 1 read ``a b`` as ``a P P b P P``,
    as the data of ``--pauses every`` has it (:class:`~pause_megatron.pauses.insertion.EveryTokenPauses`). The last
    pause of a group predicts the next real token, and the outputs before it are ignored.
    """

    num_pauses: int
    interval: int
    pause_ids: Sequence[int] | None
    """Ids of distinct pauses, of a filler, or of the only pause; None: the real token before the pauses is read again,
    as with ``--pause-inputs repeat``."""

    def insert(self, tokens: Sequence[int] | TokenIds, before: int = 0, *, ends_text: bool = False) -> PausedTokens:
        """Return ``tokens`` (shape [tokens]) with their pauses.

        ``before`` is the number of real tokens of the text before them. With ``ends_text`` the last token has no
        pauses: nothing follows that they could predict.
        """
        real = np.asarray(tokens, dtype=np.int64)
        is_last_of_group = (before + np.arange(1, len(real) + 1)) % self.interval == 0
        copies = 1 + self.num_pauses * is_last_of_group  # [tokens]
        if ends_text and len(real):
            copies[-1] = 1
        is_pause = np.ones(int(copies.sum()), dtype=np.bool_)
        is_pause[np.cumsum(copies) - copies] = False
        ids = np.repeat(real, copies)
        if self.pause_ids is not None:
            ids[is_pause] = np.tile(ids_of_run(self.pause_ids, self.num_pauses), int((copies > 1).sum()))
        return PausedTokens(ids, is_pause)

    def most_tokens(self, positions: int) -> int:
        """Return the largest number of real tokens that fit into ``positions`` together with their pauses."""
        groups, rest = divmod(positions, self.interval + self.num_pauses)
        return groups * self.interval + min(rest, self.interval - 1)


def pause_prefix(
    context: Sequence[int] | TokenIds,
    num_pauses: int,
    *,
    pause_ids: Sequence[int] | None,
    eod_id: int,
    room: int,
    at: int | None = None,
    start: int = 0,
    shares_positions: bool = False,
) -> PausedTokens:
    """Insert ``num_pauses`` pauses into ``context``, and drop the oldest context tokens beyond ``room`` positions.

    The first ``start`` context tokens, a beginning-of-text token or none, always stay, and no pause precedes them.
    Pauses are inserted before token ``at`` of the context: ``start`` prepends them, ``None`` appends them. An empty
    context becomes one end-of-document token, as before every document in pretraining, since some token must predict
    the first target token even without pauses. ``pause_ids`` are explained at :func:`insert_runs`. Pauses with
    ``shares_positions`` take no position of ``room``.

    Returns the prefix, shape [at most ``room``]. Raises :class:`UserError` if the pauses leave no room for a context
    token.
    """
    tokens = np.asarray(context if len(context) else [eod_id], dtype=np.int64)
    where = f"{num_pauses} pauses in the {room} positions before the target"
    kept = _newest(tokens, room if shares_positions else room - num_pauses, start, where)
    border = len(kept) if at is None else max(start, at - (len(tokens) - len(kept)))
    return insert_runs(kept, [border], num_pauses, pause_ids)


def marked_prefix(
    parts: Sequence[Sequence[int]],
    num_pauses: int,
    *,
    pause_ids: Sequence[int] | None,
    eod_id: int,
    room: int,
    start: int = 0,
    shares_positions: bool = False,
) -> PausedTokens:
    """Return the context ``parts`` with ``num_pauses`` pauses after each part but the last.

    ``parts`` are the ids of the texts of :func:`split_after_marker`, each of shape [tokens of the part]. The oldest
    context tokens that do not fit into ``room`` positions are dropped, and with the last token of a part also its
    pauses. The other arguments and the errors are those of :func:`pause_prefix`.
    """
    lengths = [len(part) for part in parts]
    tokens = np.asarray([token for part in parts for token in part] or [eod_id], dtype=np.int64)
    ends = np.cumsum(lengths[:-1], dtype=np.int64) if sum(lengths) else np.ones(len(lengths) - 1, dtype=np.int64)
    dropped = np.arange(max(1, len(tokens) - start))  # the choices
    first = int(np.searchsorted(ends, start, side="right"))  # runs before it follow tokens that are always kept
    removed = np.searchsorted(ends, start + dropped, side="right") - first
    sizes = len(tokens) - dropped + (0 if shares_positions else num_pauses) * (len(ends) - removed)
    if not (fits := np.flatnonzero(sizes <= room)).size:
        where = f"{num_pauses} pauses after each marker in the {room} positions before the target"
        raise _no_room(where)
    drop = int(fits[0])
    kept = np.concatenate([tokens[:start], tokens[start + drop :]])
    at = np.concatenate([ends[:first], ends[first + removed[drop] :] - drop])
    return insert_runs(kept, at, num_pauses, pause_ids)


def interleaved_prefix(
    context: Sequence[int] | TokenIds,
    interleaving: Interleaving,
    *,
    eod_id: int,
    most: int,
    following: int,
    start: int = 0,
) -> PausedTokens:
    """Return ``context`` with pauses after its tokens, without the oldest ones that do not fit.

    ``most`` real tokens fit into the model with their pauses, and ``following`` of them come after ``context``.
    ``start`` and an empty context are explained at :func:`pause_prefix`. Raises :class:`UserError` if there is no room
    for a context token.
    """
    tokens = np.asarray(context if len(context) else [eod_id], dtype=np.int64)
    where = f"{most} tokens fit with their pauses, and {following} of them come after the prompt"
    return interleaving.insert(_newest(tokens, most - following, start, where))


def _newest(tokens: TokenIds, room: int, start: int, where: str) -> TokenIds:
    """Return the first ``start`` and the newest of ``tokens``, at most ``room``; ``where`` explains the room."""
    if room < min(len(tokens), start + 1):
        raise _no_room(where)
    dropped = max(0, len(tokens) - room)
    return np.concatenate([tokens[:start], tokens[start + dropped :]])


def _no_room(where: str) -> UserError:
    return UserError(
        f"no room for the prompt: {where}; use fewer pauses, a shorter target or a model with a longer context"
    )


def split_at_marker(prompt: str, marker: str) -> tuple[str, str]:
    """The text before the last occurrence of ``marker``, and the text from there on.

    Encode the halves separately: a token across the border would leave no place for a pause. For example,
    ``"Q: 1+1? A:"`` with the marker ``"A:"`` gives ``("Q: 1+1? ", "A:")``. Raises :class:`UserError` if the prompt does
    not contain the marker.
    """
    _require_marker(prompt, marker)
    before, found, after = prompt.rpartition(marker)
    return before, found + after


def split_after_marker(prompt: str, marker: str) -> list[str]:
    """The texts that end with an occurrence of ``marker``, and the text after the last one, which may be empty.

    Occurrences do not overlap and are found from the left. Encode the parts separately, as with
    :func:`split_at_marker`. For example, ``"One. Two."`` with the marker ``"."`` gives ``["One.", " Two.", ""]``.
    Raises :class:`UserError` if the prompt does not contain the marker.
    """
    _require_marker(prompt, marker)
    *marked, rest = prompt.split(marker)
    return [*(part + marker for part in marked), rest]


def _require_marker(prompt: str, marker: str) -> None:
    if marker not in prompt:
        raise UserError(
            f"--pause-marker {marker!r}: not in the prompt {prompt!r}; give a text that every prompt contains"
        )
