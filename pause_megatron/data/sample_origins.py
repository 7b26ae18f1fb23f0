"""From a sample back to the documents it was made of: which file, and which documents of it.

A stored sequence does not say which documents it holds, but its shard says which file it was made from, and every
document in it ends with the end-of-document token: as many of them stand before a sequence, so many documents have
ended. They are counted when somebody asks, which reads each shard concerned once, up to the sequence.

Documents are numbered from 0 as they stand in their file. Those that preprocessing left out (records that could not be
read, under ``--on-error skip``, and documents without text) have no number; how many of them the file has is said. In
a dataset written with ``--trimmed drop`` some ends were trimmed off, so numbers there are the lowest possible ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch.distributed as dist

from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.packed_documents import DocumentDataset
from pause_megatron.data.training_sample import SampleDataset
from pause_megatron.parallel import collectives
from pause_megatron.preprocess.dataset_manifest import DatasetSettings
from pause_megatron.preprocess.indexed_files import chunk_ranges, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan, spans_of

_TOKENS_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Consecutive documents of one file, of which a stored sequence holds at least a token each."""

    input: str
    """The file, as preprocessing named it."""
    first: int
    """Number of the first of them in the file, from 0."""
    last: int
    """Number of the last of them; a document that is longer than a sequence is first and last of many."""
    left_out: int
    """Records and documents of the file that were left out, wherever in it, and have no number."""
    at_least: bool
    """Whether the numbers are the lowest possible ones, for ends of documents were trimmed off."""
    folder: str
    """The dataset folder."""
    sequence: int
    """Index of the stored sequence in the folder."""

    def __str__(self) -> str:
        numbers = f"document {self.first}" if self.first == self.last else f"documents {self.first}-{self.last}"
        remarks = ", or later ones" if self.at_least else ""
        remarks += f", not counting {self.left_out} left out" if self.left_out else ""
        return f"{Path(self.input).name} {numbers}{remarks} (sequence {self.sequence} of {self.folder})"


Origin = tuple[Documents, ...]
"""What a sample was made of: one stored sequence, or packed documents in their order."""


def origins(datasets: Sequence[SampleDataset], located: Iterable[tuple[int, int]]) -> list[Origin]:
    """The origin of each sample of ``located``: pairs of an index into ``datasets`` and a sample of that dataset."""
    sequences = [(dataset, _sequences_of(datasets[dataset], sample)) for dataset, sample in located]
    wanted: dict[int, set[int]] = defaultdict(set)
    for dataset, of_sample in sequences:
        wanted[dataset].update(of_sample)
    found = {dataset: _documents_of(datasets[dataset].source, indices) for dataset, indices in wanted.items()}
    return [tuple(found[dataset][sequence] for sequence in of_sample) for dataset, of_sample in sequences]


def find_origins_together(datasets: Sequence[SampleDataset], located: Sequence[tuple[int, int]]) -> list[Origin]:
    """The same, with the work divided among all processes; every process calls this with the same samples.

    The samples of a large batch come from hundreds of shards, which are many gigabytes to read.
    """
    in_order = sorted(set(located))  # so that few processes read the same shard
    rank, processes = dist.get_rank(), dist.get_world_size()
    share = in_order[rank * len(in_order) // processes : (rank + 1) * len(in_order) // processes]
    found: dict[tuple[int, int], Origin] = {}
    for part in collectives.gather_from_ranks(dict(zip(share, origins(datasets, share), strict=True))):
        found |= part
    return [found[place] for place in located]


def _sequences_of(dataset: SampleDataset, sample: int) -> Sequence[int]:
    """The stored sequences that hold the tokens of a sample, in order."""
    if not isinstance(dataset, DocumentDataset):
        return [sample]
    (first, _), (last, offset) = dataset.sample_index[sample], dataset.sample_index[sample + 1]
    # The next sample begins in the last of these documents; if at its beginning, this one has its last target from it.
    return [int(document) for document in dataset.document_index[first : last + (offset > 0)]]


def _documents_of(source: DataFolder, sequences: Iterable[int]) -> dict[int, Documents]:
    """The documents of each of the stored ``sequences`` of a folder."""
    manifest = source.manifest
    starts = [0, *accumulate(shard.sequences for shard in manifest.shards)]
    by_shard: dict[int, list[int]] = defaultdict(list)
    for sequence in sorted(sequences):
        shard = bisect_right(starts, sequence) - 1
        by_shard[shard].append(sequence - starts[shard])
    parts = spans_of(source.path, manifest)
    found = {}
    for shard, wanted in by_shard.items():
        entry = parts[shard].shard
        for sequence, (first, last) in zip(wanted, _numbers(parts[shard], manifest, wanted), strict=True):
            found[starts[shard] + sequence] = Documents(
                input=entry.input,
                first=first,
                last=last,
                left_out=entry.skipped_records + entry.empty_documents,
                at_least=manifest.trimmed == "drop",
                folder=str(source.path),
                sequence=starts[shard] + sequence,
            )
    return found


def _numbers(part: ShardSpan, settings: DatasetSettings, sequences: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last document of each of the ascending ``sequences`` of a shard, all counted from its beginning."""
    if settings.strategy == "document":
        yield from zip(sequences, sequences, strict=True)
        return
    dtype, length = token_dtype(settings.vocab_size), settings.seq_length
    tokens = np.memmap(part.bin_path, dtype, mode="r", offset=part.first_byte, shape=(part.shard.tokens,))
    ended = counted = 0
    for sequence in sequences:
        start = sequence * length
        for first, last in chunk_ranges(counted, start, _TOKENS_AT_ONCE):
            ended += int(np.count_nonzero(tokens[first:last] == settings.eod_id))
        counted = start
        text = tokens[start : start + length]
        text = text[text != settings.pause_id]
        yield ended, ended + int(np.count_nonzero(text[:-1] == settings.eod_id))
