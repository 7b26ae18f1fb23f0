"""One pass over a shard's tokens: everything about them that can be checked, in memory that does not grow."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.manifest import DatasetSettings
from pause_megatron.preprocess.parts import Part
from pause_megatron.preprocess.pieces import Piece
from pause_megatron.preprocess.verification.faults import Faults
from pause_megatron.preprocess.verification.strategies import check_mean, check_strategy


class TokenScan:
    """Takes a shard's pieces in order, then :meth:`finish` compares what was counted with the manifest."""

    def __init__(self, part: Part, settings: DatasetSettings, faults: Faults) -> None:
        self._part = part
        self._settings = settings
        self._faults = faults
        self._pauses = self._ends_of_documents = 0
        self._pauses_so_far = 0
        """Pauses that the sequence going on at the end of the last piece has had."""
        self._runs: Counter[int] = Counter()
        self._open_run = 0
        """Pauses at the very end of the last piece, if its last sequence goes on."""
        self._open_run_at = ""
        distinct = settings.gaps == "distinct" and settings.strategy in ("sequence", "document")
        self._longest_run = 1 if distinct else math.inf

    def add(self, piece: Piece) -> None:
        """Check and count the next tokens."""
        self._check_ids(piece)
        self._pauses += len(piece.pauses)
        self._ends_of_documents += int(np.count_nonzero(piece.tokens == self._settings.eod_id))
        check_strategy(piece, self._pauses_of_finished(piece), self._settings, self._faults)
        self._count_runs(piece)

    def _check_ids(self, piece: Piece) -> None:
        unsigned = piece.tokens.view(np.dtype(f"u{piece.tokens.itemsize}"))  # so that negative ids are large
        if len(unsigned) and unsigned.max() >= self._settings.vocab_size:
            wrong = np.flatnonzero(unsigned >= self._settings.vocab_size)
            first = int(wrong[0])
            self._faults.add(
                "id",
                f"{piece.where(first)}: id {piece.tokens[first]}, expected one below the vocabulary size "
                f"{self._settings.vocab_size}",
                len(wrong),
            )

    def _pauses_of_finished(self, piece: Piece) -> NDArray[np.int64]:
        borders = np.append(np.maximum(piece.starts, 0), len(piece.tokens))
        counts = np.diff(np.searchsorted(piece.pauses, borders))
        counts[0] += self._pauses_so_far
        self._pauses_so_far = int(counts[-1]) if piece.finished < len(counts) else 0
        return counts[: piece.finished]

    def _count_runs(self, piece: Piece) -> None:
        """Count runs of pauses; none goes on into the next sequence, but one may into the next piece."""
        pauses = piece.pauses
        begins = np.ones(len(pauses), dtype=bool)
        np.not_equal(pauses[1:], pauses[:-1] + 1, out=begins[1:])
        starts = piece.starts_here
        begins[np.searchsorted(pauses, starts[piece.is_pause[starts]])] = True
        first = np.flatnonzero(begins)
        runs, places = np.diff(first, append=len(pauses)), pauses[first]
        goes_on = bool(len(runs)) and pauses[-1] == len(piece.tokens) - 1 and piece.finished < len(piece.ends)
        if self._open_run:
            if len(runs) and places[0] == 0 and piece.starts[0] < 0:
                self._open_run += int(runs[0])
                runs, places = runs[1:], places[1:]
                if goes_on and not len(runs):
                    return
            self._close_run()
        if goes_on:
            self._open_run, self._open_run_at = int(runs[-1]), piece.where(int(places[-1]))
            runs, places = runs[:-1], places[:-1]
        counts = np.bincount(runs)
        self._runs.update({int(length): int(counts[length]) for length in np.flatnonzero(counts)})
        wrong = np.flatnonzero(runs > self._longest_run)
        if len(wrong):
            self._add_run(piece.where(int(places[wrong[0]])), int(runs[wrong[0]]), len(wrong))

    def _close_run(self) -> None:
        self._runs[self._open_run] += 1
        if self._open_run > self._longest_run:
            self._add_run(self._open_run_at, self._open_run, 1)
        self._open_run = 0

    def _add_run(self, where: str, length: int, count: int) -> None:
        self._faults.add("run", f"{where}: {length} pauses stand together, though gaps are distinct", count)

    def finish(self) -> None:
        """Compare what was counted with the shard's entry."""
        if self._open_run:
            self._close_run()
        shard, label = self._part.shard, self._part.label
        self._faults.expect("pauses", f"{label}: pauses counted are", self._pauses, shard.pauses)
        if self._runs != Counter(shard.pause_runs):
            length = min(length for length in {*self._runs, *shard.pause_runs} if self._differs(length))
            self._faults.expect(
                "run lengths",
                f"{label}: runs of {length} pauses counted are",
                self._runs[length],
                shard.pause_runs.get(length, 0),
            )
        check_mean(label, self._pauses, shard.sequences, self._settings, self._faults)
        most = shard.documents - (shard.tail_tokens > 0)  # what fills no sequence ends with the end of a document
        least = max(0, shard.documents - shard.dropped_tokens)
        if not least <= self._ends_of_documents <= most:
            expected = str(most) if least == most else f"{least} to {most}"
            self._faults.add(
                "ends",
                f"{label}: {self._ends_of_documents} ends of documents counted, expected {expected}",
            )

    def _differs(self, length: int) -> bool:
        return self._runs[length] != self._part.shard.pause_runs.get(length, 0)
