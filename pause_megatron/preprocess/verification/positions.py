"""Whether the pauses stand where the seed puts them: insertion is done again and the places are compared.

Nothing about randomness is left to belief: a dataset that passes holds the very draws of its seed, shard and sequences.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.manifest import DatasetSettings
from pause_megatron.preprocess.parts import Part
from pause_megatron.preprocess.pieces import Piece
from pause_megatron.preprocess.shard_writer import make_strategy
from pause_megatron.preprocess.verification.faults import Faults


class PositionCheck:
    """Takes a shard's pieces in order. For the strategies that draw; the others fix every place."""

    def __init__(self, part: Part, settings: DatasetSettings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self._strategy = make_strategy(settings, part.shard.index)
        self._begun: list[NDArray[np.integer]] = []
        """Tokens of a sequence that goes on in the next piece."""

    def add(self, piece: Piece) -> None:
        """Check the sequences that end in ``piece``."""
        if not piece.finished:
            self._begun.append(piece.tokens)
            return
        end = int(piece.ends[piece.finished - 1])
        before = sum(map(len, self._begun))
        tokens = np.concatenate([*self._begun, piece.tokens[:end]])
        self._begun = [piece.tokens[end:]] if end < len(piece.tokens) else []
        found = tokens == self._settings.pause_id
        drawn = self._drawn(tokens[~found], piece.first_sequence, piece.finished)
        if len(drawn) != len(found):
            return  # documents with wrong counts or ends, which have been named
        wrong = np.flatnonzero(found != drawn)
        if len(wrong):
            first = int(wrong[0])
            what = "a pause where" if found[first] else "a real token where"
            other = "a real token" if found[first] else "a pause"
            self._faults.add(
                "drawn",
                f"{piece.where(first - before)}: {what} seed {self._settings.seed} puts {other}",
                len(wrong),
            )

    def _drawn(self, real: NDArray[np.integer], first_sequence: int, sequences: int) -> NDArray[np.bool_]:
        """Where pauses are due in ``sequences`` sequences, the first number ``first_sequence`` of the shard."""
        if self._settings.strategy == "sequence":  # whatever the text: as much of it as they can need
            real = np.full(sequences * self._settings.seq_length, self._settings.eod_id)
        tokens = self._strategy.pack(real, first_sequence).tokens
        if self._settings.strategy == "sequence":
            tokens = tokens[: sequences * self._settings.seq_length]
        is_pause: NDArray[np.bool_] = tokens == self._settings.pause_id
        return is_pause
