"""What each strategy of pause insertion promises of the stored sequences, checked piece by piece.

Counts and places that the strategy fixes are checked for every sequence; of what is drawn at random, the mean is, and
in :mod:`~pause_megatron.preprocess.verification.positions` the draws themselves.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses.insertion import pauses_per_document, pauses_per_sequence
from pause_megatron.preprocess.manifest import DatasetManifest, DatasetSettings
from pause_megatron.preprocess.pieces import Piece
from pause_megatron.preprocess.verification.faults import Faults

_DEVIATIONS = 6
"""Standard deviations by which a mean may differ: once in a billion shards by chance."""


def check_strategy(piece: Piece, counts: NDArray[np.int64], settings: DatasetSettings, faults: Faults) -> None:
    """Check a piece; ``counts`` are the pauses of each sequence that is finished in it, shape ``[piece.finished]``."""
    if settings.strategy == "none":
        _check_none(piece, faults)
    elif settings.strategy == "every":
        _check_every(piece, settings, faults)
    elif settings.strategy == "document":
        _check_document(piece, counts, settings, faults)
    else:
        _check_sequence(piece, counts, settings, faults)


def _check_none(piece: Piece, faults: Faults) -> None:
    if len(piece.pauses):
        where = piece.where(int(piece.pauses[0]))
        faults.add("place", f"{where}: a pause, though the strategy is none", len(piece.pauses))


def _check_every(piece: Piece, settings: DatasetSettings, faults: Faults) -> None:
    places = np.arange(piece.first_token, piece.first_token + len(piece.tokens))
    expected = places % (settings.pauses_per_token + 1) != 0
    wrong = np.flatnonzero(piece.is_pause != expected)
    if len(wrong):
        first = int(wrong[0])
        found = "a pause where a real token" if piece.is_pause[first] else f"token {piece.tokens[first]} where a pause"
        faults.add("place", f"{piece.where(first)}: {found} is due, each token having its pauses behind it", len(wrong))


def _check_sequence(piece: Piece, counts: NDArray[np.int64], settings: DatasetSettings, faults: Faults) -> None:
    most = pauses_per_sequence(settings.pause_rate, settings.seq_length)
    many = np.flatnonzero(counts > most)
    if len(many):
        place = int(many[0])
        faults.add(
            "count", f"{piece.where_sequence(place)}: {counts[place]} pauses, expected at most {most}", len(many)
        )
    if settings.gaps == "distinct":
        _check_starts(piece, faults)


def _check_document(piece: Piece, counts: NDArray[np.int64], settings: DatasetSettings, faults: Faults) -> None:
    _check_starts(piece, faults)
    found = np.flatnonzero(piece.tokens == settings.eod_id)
    expected = piece.ends[: piece.finished] - 1
    for kind, places, message in (
        ("end inside", np.setdiff1d(found, expected), "the end-of-document token inside a document"),
        ("end missing", np.setdiff1d(expected, found), "a document's last token is not the end-of-document token"),
    ):
        if len(places):
            faults.add(kind, f"{piece.where(int(places[0]))}: {message}", len(places))
    lengths = (piece.ends - piece.starts)[: piece.finished]
    due = pauses_per_document(settings.pause_rate, lengths - counts - 1)
    wrong = np.flatnonzero(counts != due)
    if len(wrong):
        place = int(wrong[0])
        faults.add(
            "count",
            f"{piece.where_sequence(place)}: {counts[place]} pauses, expected {due[place]} for a document of "
            f"{lengths[place] - counts[place] - 1} tokens",
            len(wrong),
        )


def _check_starts(piece: Piece, faults: Faults) -> None:
    starts = piece.starts_here
    wrong = starts[piece.is_pause[starts]]
    if len(wrong):
        faults.add("start", f"{piece.where(int(wrong[0]))}: a pause before the first token", len(wrong))


def check_mean(label: str, pauses: int, sequences: int, settings: DatasetSettings, faults: Faults) -> None:
    """For the strategy ``sequence``: check a shard's number of pauses against its distribution.

    With repeated gaps a sequence's number is hypergeometric: its positions are a sample of those of the lengthened
    sequence. With distinct gaps the variance is smaller, and the mean by up to a quarter of a pause. In all cases a
    shard's last sequence is one that the rest of the text happened to fill.
    """
    if settings.strategy != "sequence" or not sequences:
        return
    inserted = pauses_per_sequence(settings.pause_rate, settings.seq_length)
    longer = settings.seq_length + inserted
    share = inserted / longer
    mean = settings.seq_length * share
    variance = mean * (1 - share) * inserted / (longer - 1)
    margin = _DEVIATIONS * math.sqrt(variance * sequences) + sequences * (settings.gaps == "distinct") / 2 + inserted
    if abs(pauses - sequences * mean) > margin:
        faults.add(
            "mean",
            f"{label}: {pauses / sequences:.2f} pauses in a sequence on average, expected {mean:.2f} from a rate of "
            f"{settings.pause_rate} (at most {margin / sequences:.2f} off in {sequences} sequences)",
        )


def expected_fraction(manifest: DatasetManifest) -> float:
    """The share of stored tokens that should be pauses, by the settings (for documents, and their lengths)."""
    if manifest.strategy == "sequence":
        inserted = pauses_per_sequence(manifest.pause_rate, manifest.seq_length)
        return inserted / (manifest.seq_length + inserted)
    if manifest.strategy == "every":
        return manifest.pauses_per_token / (manifest.pauses_per_token + 1)
    if manifest.strategy == "document":
        real = manifest.tokens - manifest.pauses
        due = manifest.pause_rate * (real - manifest.sequences)
        return due / max(1.0, real + due)
    return 0.0
