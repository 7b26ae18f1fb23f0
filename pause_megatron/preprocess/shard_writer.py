"""Writer of one shard of one dataset: inserts pauses into the stream of real tokens and writes the shard's files."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pause_megatron.atomic import write_file
from pause_megatron.pauses import sampling
from pause_megatron.pauses.insertion import DocumentPauses, EveryTokenPauses, NoPauses, SequencePauses, Strategy
from pause_megatron.pauses.pause_counts import pauses_per_sequence
from pause_megatron.pauses.pause_ids import number_pauses
from pause_megatron.pauses.sampling import Sampler
from pause_megatron.preprocess.dataset_manifest import ShardInput, ShardManifest, ShardRecord
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import stream_index, token_dtype
from pause_megatron.records.files import write_record


class ShardWriter:
    """Packs a stream with the strategy of ``settings`` and appends the sequences to ``file``, the ``NAME.bin``."""

    def __init__(self, file: IO[bytes], settings: DatasetSettings, shard: int, sampler: Sampler = sampling) -> None:
        self._file = file
        self._settings = settings
        self._strategy = make_strategy(settings, shard, sampler)
        self._dtype = token_dtype(settings.vocab_size)
        self._digest = hashlib.sha256()
        self._pending = np.empty(0, dtype=self._dtype)
        self._lengths: list[NDArray[np.int32]] = []
        self._runs: Counter[int] = Counter()
        self._sequences = self._tokens = self._pauses = self._consumed = 0

    def add(self, stream: NDArray[np.integer]) -> None:
        """Add the next real tokens. Tokens that do not fill a sequence yet wait for the next call."""
        joined = np.concatenate([self._pending, stream])
        packed = self._strategy.pack(joined, self._sequences)
        pauses = packed.tokens == self._settings.pause_id
        if self._settings.distinct_pauses:
            number_pauses(packed.tokens, pauses, packed.lengths, self._settings.pause_ids)
        self._file.write(packed.tokens.data)
        self._digest.update(packed.tokens.data)
        self._pending = joined[packed.consumed :]
        self._lengths.append(packed.lengths)
        self._sequences += len(packed.lengths)
        self._tokens += len(packed.tokens)
        self._consumed += packed.consumed
        runs = count_runs(pauses, packed.lengths)
        self._pauses += sum(length * count for length, count in runs.items())
        self._runs.update(runs)

    def finish(self, folder: Path, shard: ShardInput) -> ShardManifest:
        """Write ``NAME.idx`` and, last, ``NAME.json``; ``NAME.bin`` must have its final name already."""
        digest, index_size = hashlib.sha256(), 0
        with write_file(folder / f"{shard.name}.idx") as file:
            for part in stream_index(lambda: self._lengths, self._sequences, self._dtype):
                file.write(part)
                digest.update(part)
                index_size += len(part)
        manifest = ShardManifest(
            **vars(shard),
            sequences=self._sequences,
            tokens=self._tokens,
            pauses=self._pauses,
            pause_fraction=self._pauses / max(1, self._tokens),
            pause_runs=dict(sorted(self._runs.items())),
            trimmed_tokens=self._consumed - (self._tokens - self._pauses),
            tail_tokens=len(self._pending),
            bin_bytes=self._tokens * self._dtype.itemsize,
            bin_sha256=self._digest.hexdigest(),
            idx_bytes=index_size,
            idx_sha256=digest.hexdigest(),
        )
        write_record(folder / f"{shard.name}.json", ShardRecord(settings=self._settings, shard=manifest))
        return manifest


def make_strategy(settings: DatasetSettings, shard: int, sampler: Sampler = sampling) -> Strategy:
    """Return the pause insertion of ``settings`` for the shard with index ``shard``; it draws with ``sampler``."""
    if settings.strategy == "none":
        return NoPauses(settings.seq_length)
    if settings.strategy == "every":
        return EveryTokenPauses(settings.seq_length, settings.pauses_per_token, settings.pause_id, settings.interval)
    if settings.strategy == "document":
        return DocumentPauses(
            pause_rate=settings.pause_rate,
            pause_id=settings.pause_id,
            eod_id=settings.eod_id,
            seed=settings.seed,
            shard=shard,
            gaps=settings.gaps,
            rates=settings.kind_of_rates,
            sampler=sampler,
        )
    return SequencePauses(
        seq_length=settings.seq_length,
        num_pauses=pauses_per_sequence(settings.pause_rate, settings.seq_length),
        pause_id=settings.pause_id,
        seed=settings.seed,
        shard=shard,
        trimmed=settings.trimmed,
        gaps=settings.gaps,
        rates=settings.kind_of_rates,
        sampler=sampler,
    )


def count_runs(is_pause: NDArray[np.bool_], sequence_lengths: NDArray[np.integer]) -> dict[int, int]:
    """Count runs of consecutive pauses by length, in ``is_pause``, shape ``[tokens]``. A run ends with its sequence."""
    at_least = [int(np.count_nonzero(is_pause))]  # [n]: positions where n + 1 consecutive pauses start
    together = is_pause[1:] & is_pause[:-1]
    together[np.cumsum(sequence_lengths, dtype=np.int64)[:-1] - 1] = False  # the next token is in the next sequence
    starts = np.flatnonzero(together)  # where 2 consecutive pauses start; few, unlike the tokens
    while len(starts):
        at_least.append(len(starts))
        starts = starts[:-1][np.diff(starts) == 1]
    # A run of n pauses has n - k + 1 starts of k pauses, so the second difference counts the runs of each length.
    runs_of_at_least = -np.diff(at_least, append=0)
    runs = -np.diff(runs_of_at_least, append=0)
    return {length: int(count) for length, count in enumerate(runs, start=1) if count}
