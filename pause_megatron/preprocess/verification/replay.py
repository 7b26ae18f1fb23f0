"""Replays pause insertion over a stored shard and compares: every pause and, with a twin, every real token.

The places of pauses depend only on the settings, the shard and the stored lengths, not on the text. So the writer's own
strategy (``real_places`` in :mod:`~pause_megatron.pauses.insertion`) gives for each stored token whether it must be a
pause. The real tokens must be those of the same shard in the dataset without pauses, its *twin*, in order.
Memory does not grow with the shard: one block of tokens, or one byte for each token of a very long document.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses.pause_ids import number_pauses
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan
from pause_megatron.preprocess.shard_writer import count_runs, make_strategy
from pause_megatron.preprocess.token_blocks import TokenBlock
from pause_megatron.preprocess.verification.faults import Faults
from pause_megatron.preprocess.verification.manifest_checks import check_twin_counts


class Replay:
    """Checks the blocks of one shard in order; then :meth:`finish` compares the counts with the shard's entry."""

    def __init__(self, span: ShardSpan, settings: DatasetSettings, twin: ShardSpan | None, faults: Faults) -> None:
        self._span = span
        self._settings = settings
        self._twin = twin
        self._faults = faults
        self._strategy = make_strategy(settings, span.shard.index)
        self._is_real = np.empty(0, dtype=bool)
        """Places of real tokens in the sequences of the block; for a part of a document, in the complete document."""
        self._text_position = 0
        """Real tokens that the strategy has placed so far."""
        self._pauses = self._ends_of_documents = 0
        self._runs: Counter[int] = Counter()
        if twin:
            check_twin_counts(span, twin, faults)

    def add(self, block: TokenBlock) -> None:
        """Check the next block."""
        tokens, settings = block.tokens, self._settings
        is_end = tokens == settings.eod_id
        self._pauses += int(np.count_nonzero(block.is_pause))
        self._ends_of_documents += int(np.count_nonzero(is_end))
        self._runs.update(count_runs(block.is_pause, block.lengths_here))
        unsigned = tokens.view(np.dtype(f"u{tokens.itemsize}"))  # a negative id becomes a large one
        wrong = np.flatnonzero(unsigned >= settings.vocab_size)
        self._add("id", block, wrong, f"expected one below the vocabulary size {settings.vocab_size}")
        if settings.strategy == "document":
            due = np.zeros_like(is_end)
            due[block.ends[block.ends <= len(due)] - 1] = True
            self._add("end", block, np.flatnonzero(is_end & ~due), "the end-of-document token inside a document")
            missing = "the last token of a document is not the end-of-document token"
            self._add("no end", block, np.flatnonzero(due & ~is_end), missing)
        if not block.offset:
            self._is_real = self._strategy.real_places(block.lengths, block.first_sequence)
        is_real = self._is_real[block.offset : block.offset + len(tokens)]
        self._check_pauses(block, is_real)
        if self._twin:
            self._check_text(block, is_real, self._twin)

    def _add(self, kind: str, block: TokenBlock, positions: NDArray[np.int64], message: str) -> None:
        if len(positions):
            first = int(positions[0])
            if kind in ("id", "text"):
                message = f"id {block.tokens[first]}, {message}"
            self._faults.add(kind, f"{block.where(first)}: {message}", len(positions))

    def _check_pauses(self, block: TokenBlock, is_real: NDArray[np.bool_]) -> None:
        wrong = np.flatnonzero(block.is_pause == is_real)
        if len(wrong):
            found, expected = ("a pause", "a real token") if is_real[wrong[0]] else ("a real token", "a pause")
            settings = self._settings
            seed = f", seed {settings.seed}" if settings.strategy in ("sequence", "document") else ""
            self._add("pause", block, wrong, f"{found}, expected {expected} (--pauses {settings.strategy}{seed})")
        if self._settings.distinct_pauses:
            self._check_numbers(block)

    def _check_numbers(self, block: TokenBlock) -> None:
        """Check that each of several distinct pauses is that of its place in its run."""
        due = block.tokens.copy()
        number_pauses(due, block.is_pause, block.lengths_here, self._settings.pause_ids)
        wrong = np.flatnonzero(due != block.tokens)
        if len(wrong):
            first = int(wrong[0])
            expected = f"id {block.tokens[first]}, expected {due[first]} for the place of this pause in its run"
            self._add("pause number", block, wrong, expected)

    def _check_text(self, block: TokenBlock, is_real: NDArray[np.bool_], twin: ShardSpan) -> None:
        """Compare the tokens at the places of real tokens with the text due there, if the twin stores it."""
        real = np.flatnonzero(is_real)
        places = self._places_in_text(block, is_real, len(real))
        places = places[: int(np.searchsorted(places, twin.shard.tokens))]  # the twin's tail is not stored
        if not len(places):
            return
        first, real = int(places[0]), real[: len(places)]
        dtype, count = token_dtype(self._settings.vocab_size), int(places[-1]) + 1 - first
        text = np.fromfile(twin.bin_path, dtype, count, offset=twin.first_byte + first * dtype.itemsize)
        wrong = np.flatnonzero((block.tokens[real] != text[places - first]) & ~block.is_pause[real])
        self._faults.compared_tokens += len(places)
        if len(wrong):
            place = int(places[wrong[0]])
            expected = f"expected {text[place - first]} as at token {place} of {twin.label()}"
            self._add("text", block, real[wrong], expected)

    def _places_in_text(self, block: TokenBlock, is_real: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        """Return the index in the twin's text of each real token of the block, ascending, shape ``[count]``."""
        seq_length = self._settings.seq_length
        if self._settings.trimmed == "drop":
            # Sequence s holds the first tokens of the text from s * seq_length on: rows of [sequences, seq_length].
            kept = is_real.reshape(-1, seq_length).sum(axis=1)
            in_rows = np.flatnonzero(np.arange(seq_length) < kept[:, None])
            return block.first_sequence * seq_length + in_rows
        self._text_position += count
        return np.arange(self._text_position - count, self._text_position)

    def finish(self) -> None:
        """Compare the counts with the shard's entry in the manifest."""
        shard, label, faults = self._span.shard, self._span.label(), self._faults
        faults.expect("pauses", f"{label}: pauses counted are", self._pauses, shard.pauses)
        runs, entry = self._runs, Counter(shard.pause_runs)
        if differing := [length for length in runs | entry if runs[length] != entry[length]]:
            length = min(differing)
            subject = f"{label}: runs of {length} pauses counted are"
            faults.expect("run lengths", subject, runs[length], entry[length])
        # The text that fills no sequence ends with the end of a document; each dropped token may have been one too.
        most = shard.documents - (shard.tail_tokens > 0)
        least = max(0, shard.documents - shard.dropped_tokens)
        if not least <= self._ends_of_documents <= most:
            expected = str(most) if least == most else f"{least} to {most}"
            faults.add("ends", f"{label}: {self._ends_of_documents} ends of documents counted, expected {expected}")
