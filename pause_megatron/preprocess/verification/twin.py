"""The standard twin: without its pauses a shard must be the text that the dataset of ``--pauses none`` holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.errors import UserError
from pause_megatron.preprocess.indexed_writer import token_dtype
from pause_megatron.preprocess.manifest import DatasetManifest, DatasetSettings, load_dataset_manifest
from pause_megatron.preprocess.parts import Part, parts_of
from pause_megatron.preprocess.pieces import Piece
from pause_megatron.preprocess.verification.faults import Faults

_SHARED_SETTINGS = ("tokenizer_sha256", "vocab_size", "pause_id", "eod_id", "text_key")


def find_twins(folder: Path, manifest: DatasetManifest, parts: Sequence[Part]) -> list[Part]:
    """The standard dataset's shard for each of ``parts``, by name and index.

    Raises :class:`UserError` when ``folder`` is no standard dataset of the same input and tokenizer.
    """
    standard = load_dataset_manifest(folder)
    if standard.strategy != "none":
        raise UserError(f"--standard {folder}: written with --pauses {standard.strategy}, expected --pauses none")
    for name in _SHARED_SETTINGS:
        if getattr(standard, name) != getattr(manifest, name):
            raise UserError(
                f"--standard {folder}: its {name} is {getattr(standard, name)}, that of --data "
                f"{getattr(manifest, name)}; a twin is written from the same text with the same tokenizer"
            )
    by_shard = defaultdict(list)
    for part in parts_of(folder, standard):
        by_shard[part.shard.name, part.shard.index].append(part)
    twins = []
    for part in parts:
        there = by_shard[part.shard.name, part.shard.index]
        if not there:
            raise UserError(
                f"--standard {folder}: has no shard {part.shard.name} (number {part.shard.index}, of "
                f"{part.shard.input}); a twin is written from the same input, in the same order"
            )
        twins.append(there.pop(0))
    return twins


class TwinCheck:
    """Takes a shard's pieces in order and compares their real tokens with those of the ``standard`` shard."""

    def __init__(self, part: Part, standard: Part, settings: DatasetSettings, faults: Faults) -> None:
        self._part = part
        self._standard = standard
        self._settings = settings
        self._faults = faults
        self._dtype = token_dtype(settings.vocab_size)
        self._real = 0
        """Real tokens so far."""
        self._real_of_sequence = 0
        """Real tokens so far of the sequence that goes on in the next piece."""
        self.compared = 0
        """Real tokens that the standard dataset stores too, and that were compared."""
        self._check_counts()

    def _check_counts(self) -> None:
        ours, theirs = self._part.shard, self._standard.shard
        for name in ("documents", "empty_documents", "skipped_records"):
            subject = f"{self._part.label}: {name}, compared with {self._standard.label}, are"
            self._faults.expect(f"twin {name}", subject, getattr(ours, name), getattr(theirs, name))
        real, standard = ours.real_tokens + ours.dropped_tokens, theirs.real_tokens + theirs.dropped_tokens
        if real != standard:
            self._faults.add(
                "twin tokens",
                f"{self._part.label}: its text has {real} tokens, stored or not, that of {self._standard.label} "
                f"{standard}",
            )

    def add(self, piece: Piece) -> None:
        """Compare the next tokens."""
        real = np.flatnonzero(~piece.is_pause)
        places = self._places(piece, real)
        places = places[: int(np.searchsorted(places, self._standard.shard.tokens))]
        if not len(places):
            return
        real = real[: len(places)]
        first = int(places[0])
        theirs = np.fromfile(
            self._standard.bin_path,
            self._dtype,
            int(places[-1]) + 1 - first,
            offset=self._standard.first_byte + first * self._dtype.itemsize,
        )[places - first]
        wrong = np.flatnonzero(piece.tokens[real] != theirs)
        self.compared += len(places)
        if len(wrong):
            place = int(wrong[0])
            position = int(real[place])
            self._faults.add(
                "twin",
                f"{piece.where(position)}: id {piece.tokens[position]}, expected {theirs[place]} as at token "
                f"{int(places[place])} of {self._standard.label}",
                len(wrong),
            )

    def _places(self, piece: Piece, real: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the standard shard's stream the real tokens of ``piece`` come from; ascending.

        Every sequence continues the text of the one before it, save where the text trimmed off was dropped: there a
        sequence begins ``seq_length`` tokens behind the beginning of the one before it.
        """
        ranks = np.arange(len(real))
        if self._settings.trimmed == "carry" or self._settings.strategy == "document":
            self._real += len(real)
            return ranks + (self._real - len(real))
        firsts = np.searchsorted(real, np.maximum(piece.starts, 0))
        sequence = np.searchsorted(piece.starts, real, side="right") - 1
        in_sequence = ranks - firsts[sequence]
        in_sequence[sequence == 0] += self._real_of_sequence
        goes_on = piece.finished < len(piece.ends)
        self._real_of_sequence = (
            len(real) - int(firsts[-1]) + (self._real_of_sequence if len(firsts) == 1 else 0) if goes_on else 0
        )
        return (piece.first_sequence + sequence) * self._settings.seq_length + in_sequence
