"""Replays pause insertion over a stored shard and compares: every pause and, with a twin, every real token.

The places of pauses depend only on the settings, the shard and the stored lengths, not on the text. So the writer's own
strategy (``real_places`` in :mod:`~pause_megatron.pauses.insertion`) gives for each stored token whether it must be a
pause. The real tokens must be those of the same shard in the dataset without pauses, its *twin*, in order.

Memory does not grow with the shard: one block of tokens, or one byte for each token of a very long document.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.dataset_manifest import DatasetSettings
from pause_megatron.preprocess.indexed_files import token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan
from pause_megatron.preprocess.shard_writer import count_runs, make_strategy
from pause_megatron.preprocess.token_blocks import TokenBlock
from pause_megatron.preprocess.verification.faults import Faults


class Replay:
    """Checks the blocks of one shard in order; then :meth:`finish` compares the counts with the shard's entry."""

    def __init__(self, span: ShardSpan, settings: DatasetSettings, twin: ShardSpan | None, faults: Faults) -> None:
        self._span = span
        self._settings = settings
        self._faults = faults
        self._strategy = make_strategy(settings, span.shard.index)
        self._is_real = np.empty(0, dtype=bool)
        """Places of real tokens in the sequences of the block; for a part of a document, in the complete document."""
        self._twin = _TwinText(twin, settings) if twin else None
        self._pauses = self._ends_of_documents = 0
        self._runs: Counter[int] = Counter()

    @property
    def compared_tokens(self) -> int:
        """Real tokens compared with the twin so far."""
        return self._twin.compared_tokens if self._twin else 0

    def add(self, block: TokenBlock) -> None:
        """Check the next block."""
        is_end = block.tokens == self._settings.eod_id
        self._pauses += int(np.count_nonzero(block.is_pause))
        self._ends_of_documents += int(np.count_nonzero(is_end))
        self._runs.update(count_runs(block.is_pause, block.lengths_here))
        self._check_ids(block)
        if self._settings.strategy == "document":
            self._check_ends(block, is_end)
        if not block.offset:
            self._is_real = self._strategy.real_places(block.lengths, block.first_sequence)
        is_real = self._is_real[block.offset : block.offset + len(block.tokens)]
        self._check_pauses(block, is_real)
        if self._twin:
            self._twin.check(block, is_real, self._faults)

    def _check_ids(self, block: TokenBlock) -> None:
        unsigned = block.tokens.view(np.dtype(f"u{block.tokens.itemsize}"))  # a negative id becomes a large one
        if unsigned.max() >= self._settings.vocab_size:
            wrong = np.flatnonzero(unsigned >= self._settings.vocab_size)
            self._add(
                "id",
                block,
                wrong,
                f"id {block.tokens[wrong[0]]}, expected one below the vocabulary size {self._settings.vocab_size}",
            )

    def _check_ends(self, block: TokenBlock, is_end: NDArray[np.bool_]) -> None:
        """A stored document has the end-of-document token at its end and nowhere else."""
        due = np.zeros_like(is_end)
        due[block.ends[block.ends <= len(due)] - 1] = True
        self._add("end inside", block, np.flatnonzero(is_end & ~due), "the end-of-document token inside a document")
        self._add(
            "end missing",
            block,
            np.flatnonzero(due & ~is_end),
            "the last token of a document is not the end-of-document token",
        )

    def _check_pauses(self, block: TokenBlock, is_real: NDArray[np.bool_]) -> None:
        wrong = np.flatnonzero(block.is_pause == is_real)
        if len(wrong):
            found, expected = "a real token", "a pause"
            if is_real[wrong[0]]:
                found, expected = expected, found
            settings = self._settings
            seed = f", seed {settings.seed}" if settings.strategy in ("sequence", "document") else ""
            self._add("pause", block, wrong, f"{found}, expected {expected} (--pauses {settings.strategy}{seed})")

    def _add(self, kind: str, block: TokenBlock, positions: NDArray[np.int64], message: str) -> None:
        if len(positions):
            self._faults.add(kind, f"{block.where(int(positions[0]))}: {message}", len(positions))

    def finish(self) -> None:
        """Compare the counts with the shard's entry in the manifest."""
        shard, label = self._span.shard, self._span.label
        self._faults.expect("pauses", f"{label}: pauses counted are", self._pauses, shard.pauses)
        entry = Counter(shard.pause_runs)
        if differing := [length for length in self._runs | entry if self._runs[length] != entry[length]]:
            length = min(differing)
            self._faults.expect(
                "run lengths", f"{label}: runs of {length} pauses counted are", self._runs[length], entry[length]
            )
        # The text that fills no sequence ends with the end of a document; each dropped token may have been one too.
        most = shard.documents - (shard.tail_tokens > 0)
        least = max(0, shard.documents - shard.dropped_tokens)
        if not least <= self._ends_of_documents <= most:
            expected = str(most) if least == most else f"{least} to {most}"
            self._faults.add(
                "ends", f"{label}: {self._ends_of_documents} ends of documents counted, expected {expected}"
            )


class _TwinText:
    """The text of the twin's shard, read along with the real tokens that must equal it."""

    def __init__(self, span: ShardSpan, settings: DatasetSettings) -> None:
        self._span = span
        self._settings = settings
        self._position = 0
        """Index in the twin's text of the next real token, unless trimmed text is dropped."""
        self.compared_tokens = 0

    def check(self, block: TokenBlock, is_real: NDArray[np.bool_], faults: Faults) -> None:
        """Compare the tokens at the places of real tokens with the text due there, as far as the twin stores it."""
        real = np.flatnonzero(is_real)
        places = self._places_in_text(block, is_real, len(real))
        places = places[: int(np.searchsorted(places, self._span.shard.tokens))]
        if not len(places):
            return
        first, real = int(places[0]), real[: len(places)]
        dtype = token_dtype(self._settings.vocab_size)
        text = np.fromfile(
            self._span.bin_path,
            dtype,
            int(places[-1]) + 1 - first,
            offset=self._span.first_byte + first * dtype.itemsize,
        )
        wrong = np.flatnonzero((block.tokens[real] != text[places - first]) & ~block.is_pause[real])
        self.compared_tokens += len(places)
        if len(wrong):
            position, place = int(real[wrong[0]]), int(places[wrong[0]])
            faults.add(
                "text",
                f"{block.where(position)}: id {block.tokens[position]}, expected {text[place - first]} as at token "
                f"{place} of {self._span.label}",
                len(wrong),
            )

    def _places_in_text(self, block: TokenBlock, is_real: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        """Return the index in the twin's text of each real token of the block, ascending, shape ``[count]``."""
        seq_length = self._settings.seq_length
        if self._settings.trimmed == "drop":
            # Sequence s holds the first tokens of the text from s * seq_length on: rows of [sequences, seq_length].
            kept = is_real.reshape(-1, seq_length).sum(axis=1)
            in_rows = np.flatnonzero(np.arange(seq_length) < kept[:, None])
            return block.first_sequence * seq_length + in_rows
        self._position += count
        return np.arange(self._position - count, self._position)
