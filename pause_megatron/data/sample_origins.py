"""Origins of samples: the file and the documents that each sample was made of, for example of a loss spike.

:func:`read_sample` reads a sample, and reports the origin of an id that the vocabulary does not have.

A stored sequence does not record its documents. Its shard records the input file, and every document ends with the
end-of-document token, so the number of these tokens before a sequence is the number of its first document. They are
counted on demand, which reads each shard concerned once, up to the sequence.
"""

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
from pause_megatron.data.training_sample import Sample, SampleDataset
from pause_megatron.errors import UserError
from pause_megatron.parallel import collectives
from pause_megatron.pauses.pause_ids import is_pause
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import chunk_ranges, token_dtype
from pause_megatron.preprocess.shard_spans import ShardSpan, spans_of

_TOKENS_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class DocumentRange:
    """Consecutive documents of one file; a stored sequence holds at least one token of each."""

    input: str
    """Input file, as given to preprocessing."""
    first: int
    """Number of the first document in the file, from 0."""
    last: int
    """Number of the last document, inclusive. A document longer than a sequence is first and last of many."""
    left_out: int
    """Documents anywhere in the file that have no number: unreadable records under ``--on-error skip``, and documents
    without text."""
    at_least: bool
    """Whether the numbers are lower bounds, because ``--trimmed drop`` dropped some end-of-document tokens."""
    folder: str
    sequence: int
    """Index of the stored sequence in the folder."""

    def __str__(self) -> str:
        numbers = f"document {self.first}" if self.first == self.last else f"documents {self.first}-{self.last}"
        remarks = ", or later ones" if self.at_least else ""
        remarks += f", not counting {self.left_out} left out" if self.left_out else ""
        return f"{Path(self.input).name} {numbers}{remarks} (sequence {self.sequence} of {self.folder})"


Origin = tuple[DocumentRange, ...]
"""Documents of a sample: of its one stored sequence, or the packed documents in order."""


def find_origins(datasets: Sequence[SampleDataset], located: Iterable[tuple[int, int]]) -> list[Origin]:
    """Return the origin of each sample of ``located``: pairs of an index into ``datasets`` and a sample index."""
    sequences = [(dataset, _sequences_of(datasets[dataset], sample)) for dataset, sample in located]
    wanted: dict[int, set[int]] = defaultdict(set)
    for dataset, of_sample in sequences:
        wanted[dataset].update(of_sample)
    found = {dataset: _documents_of(datasets[dataset].source, indices) for dataset, indices in wanted.items()}
    return [tuple(found[dataset][sequence] for sequence in of_sample) for dataset, of_sample in sequences]


def find_origins_together(datasets: Sequence[SampleDataset], located: Sequence[tuple[int, int]]) -> list[Origin]:
    """Like :func:`find_origins`, with the work divided over all ranks, which must pass the same samples.

    The samples of a large batch come from hundreds of shards, which are many gigabytes to read.
    """
    in_order = sorted(set(located))  # neighbours are in the same shard, so few ranks read the same one
    rank, processes = dist.get_rank(), dist.get_world_size()
    share = in_order[rank * len(in_order) // processes : (rank + 1) * len(in_order) // processes]
    found: dict[tuple[int, int], Origin] = {}
    own = list(zip(share, find_origins(datasets, share), strict=True))
    for part in collectives.gather_from_ranks(own, list[tuple[tuple[int, int], Origin]]):
        found |= dict(part)
    return [found[place] for place in located]


def read_sample(dataset: SampleDataset, index: int) -> Sample:
    """Return sample ``index``. Raises :class:`UserError` with the documents of the first id beyond the vocabulary.

    Such an id is damage. Embeddings that are sharded by tensor parallelism would take it for zeros, without an error.
    """
    tokens, vocab_size = dataset[index], dataset.source.manifest.vocab_size
    if int(tokens.min()) >= 0 and int(tokens.max()) < vocab_size:
        return tokens
    column = int(np.flatnonzero((tokens < 0) | (tokens >= vocab_size))[0])
    sequence, offset = _place_of_token(dataset, index, column)
    folder, manifest = dataset.source.path, dataset.source.manifest
    starts = list(accumulate(shard.sequences for shard in manifest.shards))
    file = spans_of(folder, manifest)[bisect_right(starts, sequence)].label()
    documents = _documents_of(dataset.source, [sequence])[sequence]
    raise UserError(
        f"{file}: id {tokens[column]} at token {offset} of the sequence of {documents} is not in the vocabulary of"
        f" {vocab_size} tokens; run `pause-megatron verify-dataset --data {folder}`, and copy or write the file again"
    )


def _place_of_token(dataset: SampleDataset, sample: int, column: int) -> tuple[int, int]:
    """Return the stored sequence, and the offset in it, of the token at ``column`` of a sample."""
    if not isinstance(dataset, DocumentDataset):
        after, offset = divmod(column, dataset.source.seq_length)  # the last target is of the next sequence
        return sample + after, offset
    place, offset = (int(value) for value in dataset.sample_index[sample])
    offset += column
    while offset >= (length := len(dataset.dataset.get(dataset.document_index[place]))):
        place, offset = place + 1, offset - length
    return int(dataset.document_index[place]), offset


def _sequences_of(dataset: SampleDataset, sample: int) -> Sequence[int]:
    """Return the stored sequences that hold the tokens of a sample, in order."""
    if not isinstance(dataset, DocumentDataset):
        return [sample]
    (first, _), (last, offset) = dataset.sample_index[sample], dataset.sample_index[sample + 1]
    # The next sample starts in document ``last``. At offset 0 only this sample's last target is from that document.
    return [int(document) for document in dataset.document_index[first : last + (offset > 0)]]


def _documents_of(source: DataFolder, sequences: Iterable[int]) -> dict[int, DocumentRange]:
    """Return the documents of each of the stored ``sequences`` of a folder."""
    manifest = source.manifest
    starts = [0, *accumulate(shard.sequences for shard in manifest.shards)]
    by_shard: dict[int, list[int]] = defaultdict(list)
    for sequence in sorted(sequences):
        shard = bisect_right(starts, sequence) - 1
        by_shard[shard].append(sequence - starts[shard])
    spans = spans_of(source.path, manifest)
    found = {}
    for shard, wanted in by_shard.items():
        manifest_of_shard = spans[shard].shard
        for sequence, (first, last) in zip(wanted, _numbers(spans[shard], manifest, wanted), strict=True):
            found[starts[shard] + sequence] = DocumentRange(
                input=manifest_of_shard.input,
                first=first,
                last=last,
                left_out=manifest_of_shard.skipped_records + manifest_of_shard.empty_documents,
                at_least=manifest.trimmed == "drop",
                folder=str(source.path),
                sequence=starts[shard] + sequence,
            )
    return found


def _numbers(span: ShardSpan, settings: DatasetSettings, sequences: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last document of each of the ascending ``sequences`` of a shard, numbered from its start."""
    if settings.strategy == "document":
        yield from zip(sequences, sequences, strict=True)
        return
    dtype, length = token_dtype(settings.vocab_size), settings.seq_length
    tokens = np.memmap(span.bin_path, dtype, mode="r", offset=span.first_byte, shape=(span.shard.tokens,))
    ended = counted = 0  # end-of-document tokens found, and tokens searched, so far
    for sequence in sequences:
        start = sequence * length
        for first, last in chunk_ranges(counted, start, _TOKENS_AT_ONCE):
            ended += int(np.count_nonzero(tokens[first:last] == settings.eod_id))
        counted = start
        text = tokens[start : start + length]
        text = text[~is_pause(text, settings.pause_ids)]
        yield ended, ended + int(np.count_nonzero(text[:-1] == settings.eod_id))
