"""The worker body: one input file to one finished shard. Every engine runs exactly this.

Blocks of text are read, encoded, strung together with end-of-document tokens, packed into sequences with their pauses,
and appended to the ``.bin`` file; what fills no sequence yet goes in front of the next block. Memory is a few blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pause_megatron.atomic import write_file
from pause_megatron.errors import UserError
from pause_megatron.pauses.insertion import NoPauses, SequencePauses, Strategy, pauses_per_sequence
from pause_megatron.preprocess.indexed_writer import index_bytes, token_dtype
from pause_megatron.preprocess.manifest import (
    SHARD_FORMAT,
    DatasetSettings,
    ShardManifest,
    ShardRecord,
    write_manifest,
)
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.corpus import read_documents


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One input file to turn into one shard of ``output``."""

    name: str
    index: int
    input: Path
    tokenizer: Path
    output: Path
    settings: DatasetSettings

    @property
    def record_path(self) -> Path:
        """The shard's manifest, written last: the shard is done when this file is there."""
        return self.output / f"{self.name}.json"


def process_shard(job: ShardJob) -> ShardManifest:
    """Write ``NAME.bin``, ``NAME.idx`` and, last, ``NAME.json`` to the job's output folder.

    Raises :class:`UserError` for input that cannot be read; nothing then bears a final name.
    """
    dtype = token_dtype(job.settings.vocab_size)
    with write_file(job.output / f"{job.name}.bin") as file:
        stream = _TokenStream(job, dtype)
        written = _write_sequences(file, stream, make_strategy(job.settings, job.index))
    lengths = np.full(written.sequences, job.settings.seq_length, dtype=np.int32)
    index = index_bytes(lengths, dtype)
    with write_file(job.output / f"{job.name}.idx") as file:
        file.write(index)
    tokens = written.sequences * job.settings.seq_length
    shard = ShardManifest(
        name=job.name,
        index=job.index,
        input=str(job.input),
        input_bytes=job.input.stat().st_size,
        documents=stream.documents,
        empty_documents=stream.empty_documents,
        sequences=written.sequences,
        tokens=tokens,
        pauses=written.pauses,
        dropped_tokens=stream.tokens - (tokens - written.pauses),
        bin_bytes=tokens * dtype.itemsize,
        bin_sha256=written.sha256,
        idx_bytes=len(index),
        idx_sha256=hashlib.sha256(index).hexdigest(),
    )
    write_manifest(job.record_path, ShardRecord(format=SHARD_FORMAT, settings=job.settings, shard=shard))
    return shard


def make_strategy(settings: DatasetSettings, shard: int) -> Strategy:
    """The pause insertion that ``settings`` ask for, in the shard of this index."""
    if settings.strategy == "none":
        return NoPauses(settings.seq_length)
    return SequencePauses(
        seq_length=settings.seq_length,
        num_pauses=pauses_per_sequence(settings.pause_rate, settings.seq_length),
        pause_id=settings.pause_id,
        seed=settings.seed,
        shard=shard,
        trimmed=settings.trimmed,
    )


class _TokenStream:
    """A shard's real tokens, block by block: its documents, each followed by the end-of-document token."""

    def __init__(self, job: ShardJob, dtype: np.dtype[np.generic]) -> None:
        self._job = job
        self._dtype = dtype
        self.documents = 0
        self.empty_documents = 0
        self.tokens = 0

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        settings = self._job.settings
        tokenizer = _load_tokenizer(self._job.tokenizer, settings.tokenizer_sha256)
        for documents in read_documents(self._job.input):
            ids, lengths = tokenizer.encode_batch(documents)
            lengths = lengths[lengths > 0]
            stream = np.insert(ids.astype(self._dtype), np.cumsum(lengths), settings.eod_id)
            self.documents += len(lengths)
            self.empty_documents += len(documents) - len(lengths)
            self.tokens += len(stream)
            yield stream


@dataclass(frozen=True)
class _Written:
    sequences: int
    pauses: int
    sha256: str


def _write_sequences(file: IO[bytes], stream: _TokenStream, strategy: Strategy) -> _Written:
    """Append all sequences that ``stream`` fills to the ``.bin`` file."""
    digest = hashlib.sha256()
    sequences = pauses = 0
    pending: list[NDArray[np.integer]] = []
    for block in stream:
        joined = np.concatenate([*pending, block])
        packed = strategy.pack(joined, sequences)
        content = packed.sequences.data
        file.write(content)
        digest.update(content)
        sequences += len(packed.sequences)
        pauses += packed.pauses
        pending = [joined[packed.consumed :]]
    return _Written(sequences, pauses, digest.hexdigest())


@lru_cache(maxsize=1)
def _load_tokenizer(path: Path, sha256: str) -> PauseTokenizer:
    """The tokenizer, loaded once by each process."""
    tokenizer = PauseTokenizer.load(path)
    if tokenizer.sha256 != sha256:
        raise UserError(f"--tokenizer {path}: the file has changed since preprocessing began; start again")
    return tokenizer
