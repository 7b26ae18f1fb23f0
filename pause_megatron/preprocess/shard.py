"""Worker body of preprocessing: turns one input into one complete shard of every dataset of the run.

The input is read in blocks and encoded once. The stream of documents, each followed by the end-of-document token (and
after the beginning-of-text token, if the tokenizer puts one before a text), goes to one writer for each dataset.
Memory is a few blocks, of at least the size that the encoder needs, or a small multiple of the longest document.
"""

import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.atomic import write_file
from pause_megatron.corpus.blocks import Block, ReadOptions, Source
from pause_megatron.errors import UserError
from pause_megatron.pauses import sampling
from pause_megatron.pauses.sampling import Sampler
from pause_megatron.preprocess.dataset_manifest import LISTED_SKIPS, ShardInput, ShardManifest, SkippedRecord
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import token_dtype
from pause_megatron.preprocess.output_folders import output_folder
from pause_megatron.preprocess.progress_log import ShardProgress
from pause_megatron.preprocess.shard_writer import ShardWriter
from pause_megatron.process_memory import keep_freed_memory
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.encoders import FAST_ENCODERS, Encoder, least_block_bytes, open_encoder

_KEPT_BYTES = 256 << 20
"""Freed memory kept for the next block: 4 of the 25 nanoseconds that each token costs in addition to encoding."""
_LARGEST_KEPT_BYTES = 32 << 20  # larger arrays, which only a very long document needs, return to the system at once

_LEAST_COMPILED_BYTES = 256 << 20
"""Smallest stored input for which numba is imported. It takes a second of processor time and 130 MB, and saves 2 to 3
of the 45 nanoseconds that each token takes with gigatoken, encoding included."""


@dataclass(frozen=True, kw_only=True)
class ShardOutput:
    """One dataset to write."""

    folder: Path
    """Its folder, for :func:`~pause_megatron.preprocess.output_folders.output_folder`."""
    settings: DatasetSettings


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One input, to become one shard of each of ``outputs``, which have the same tokenizer and encoder."""

    source: Source
    index: int
    options: ReadOptions
    tokenizer: Path
    outputs: tuple[ShardOutput, ...]
    progress: Path
    """Folder of the progress log."""


def process_shard(job: ShardJob) -> tuple[ShardManifest, ...]:
    """Write ``NAME.bin``, ``NAME.idx`` and, last, ``NAME.json`` of every output; returns their manifests, in order."""
    keep_freed_memory(total=_KEPT_BYTES, largest=_LARGEST_KEPT_BYTES)
    with ShardProgress(job.progress, job.source.name, job.source.size_bytes) as progress:
        stream, writers = _TokenStream(job), []
        with ExitStack() as shards:
            shard = [output_folder(output.folder).new_shard(job.source.name) for output in job.outputs]
            folders = list(map(shards.enter_context, shard))
            with ExitStack() as files:
                for folder, output in zip(folders, job.outputs, strict=True):
                    file = files.enter_context(write_file(folder / f"{job.source.name}.bin"))
                    writers.append(ShardWriter(file, output.settings, job.index, stream.sampler))
                for block in job.source.read(stream.options):
                    tokens = stream.of_block(block)
                    for writer in writers:
                        writer.add(tokens)
                    progress.add(documents=len(block.texts), tokens=len(tokens), read_bytes=block.read_bytes)
            pairs = zip(folders, writers, strict=True)
            return tuple(writer.finish(folder, stream.summary()) for folder, writer in pairs)


class _TokenStream:
    """Real tokens of a shard: its documents, each with the tokens around it."""

    def __init__(self, job: ShardJob) -> None:
        settings = job.outputs[0].settings
        self._job = job
        self._encoder = _open_encoder(job.tokenizer, settings.tokenizer_sha256, settings.encoder)
        self.sampler = _sampler_for(job, self._encoder)
        self.options = replace(job.options, block_bytes=max(job.options.block_bytes, least_block_bytes(self._encoder)))
        self._around = np.array([*(settings.bos_ids or ()), settings.eod_id], dtype=token_dtype(settings.vocab_size))
        self._documents = self._empty_documents = self._skipped_records = 0
        self._skipped: list[SkippedRecord] = []

    def of_block(self, block: Block) -> NDArray[np.integer]:
        """Encode a block's documents; returns their tokens, shape ``[tokens]``."""
        ids, lengths = self._encoder.encode_batch(block.texts)
        lengths = lengths[lengths > 0]
        self._documents += len(lengths)
        self._empty_documents += len(block.texts) - len(lengths)
        self._skipped_records += len(block.errors)
        room = LISTED_SKIPS - len(self._skipped)
        self._skipped += [SkippedRecord(line=error.line, reason=error.reason) for error in block.errors[:room]]
        return _surround(ids, lengths, self._around)

    def summary(self) -> ShardInput:
        source = self._job.source
        return ShardInput(
            name=source.name,
            index=self._job.index,
            input=source.location,
            input_bytes=source.size_bytes,
            documents=self._documents,
            empty_documents=self._empty_documents,
            skipped_records=self._skipped_records,
            skipped=tuple(self._skipped),
        )


def _surround(ids: NDArray[np.integer], lengths: NDArray[np.int64], around: NDArray[np.integer]) -> NDArray[np.integer]:
    """Put the last token of ``around`` after each document and the others before it.

    ``ids`` are the tokens of all documents, shape ``[tokens]``, ``lengths`` their number per document. Returns shape
    ``[tokens + documents * len(around)]``, with the dtype of ``around``.
    """
    ends = np.cumsum(lengths)
    # In ids, then in the stream, which has one token more for each place before: [documents, tokens around each]
    places = np.stack([*[ends - lengths] * (len(around) - 1), ends], axis=1)
    places += np.arange(places.size).reshape(places.shape)
    stream = np.empty(len(ids) + places.size, dtype=around.dtype)
    is_text = np.ones(len(stream), dtype=bool)
    is_text[places] = False
    stream[is_text] = ids  # copies one document after the other
    stream[places] = around
    return stream


@lru_cache(maxsize=1)
def _open_encoder(path: Path, sha256: str, name: str) -> Encoder:
    tokenizer = PauseTokenizer.load(path)
    if tokenizer.sha256 != sha256:
        raise UserError(f"--tokenizer {path}: the file has changed since the run began; start the run again")
    return open_encoder(tokenizer, name)


def _sampler_for(job: ShardJob, encoder: Encoder) -> Sampler:
    """Return the compiled functions if numba is installed, and either imported already or saves more than its import.

    Only random pauses are drawn with them.
    """
    draws = any(output.settings.strategy in ("sequence", "document") for output in job.outputs)
    is_large = encoder.encoder_name in FAST_ENCODERS and job.source.size_bytes >= _LEAST_COMPILED_BYTES
    if draws and (sys.modules.get("numba") or is_large):
        with suppress(ImportError):
            from pause_megatron.pauses import sampling_loops

            return sampling_loops
    return sampling
