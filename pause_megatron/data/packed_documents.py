"""Packed documents (strategy ``document``) as samples, by Megatron-core's ``GPTDataset``.

``GPTDataset`` shuffles the documents, concatenates them and cuts them into samples of ``seq_length`` tokens. The last
target of a sample is the first token of the next one. This module changes four things:

- A sample is its tokens only (:data:`~pause_megatron.data.training_sample.Sample`). Masks and positions are functions
  of them, which the device computes.
- The documents of all files of a folder form one list
  (:class:`~pause_megatron.data.stored_sequences.StoredSequences`), so merging files changes no sample. Megatron-core
  blends one ``GPTDataset`` per file, which compares all files for every sample: minutes for the thousand files of C4.
- The index covers one epoch, whatever the length of the run (Megatron-core's indices depend on it), and
  :mod:`~pause_megatron.data.sample_order` walks over its samples. A prolonged run therefore keeps its order.
- :mod:`~pause_megatron.data.document_index` writes and finds the index. Megatron-core's writer is rank 0 only, so other
  nodes with local disks would not see it.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.document_index import DocumentIndex
from pause_megatron.data.stored_sequences import StoredSequences
from pause_megatron.data.training_sample import Sample
from pause_megatron.preprocess.dataset_manifest import read_dataset_manifest
from pause_megatron.preprocess.dataset_settings import DatasetSettings


def dataset_tokenizer(settings: DatasetSettings) -> SimpleNamespace:
    """Return the tokenizer interface that Megatron-core's datasets require."""
    identifiers = {"vocab_size": settings.vocab_size, "eod": settings.eod_id}
    # ``GPTDataset`` replaces tokens with the id ``pad`` by 0, so it must not be an id that occurs.
    return SimpleNamespace(**identifiers, pad=-1, unique_identifiers=identifiers)


class DocumentDataset(GPTDataset):
    """Packed documents of one folder."""

    source: DataFolder

    @staticmethod
    def build_low_level_dataset(dataset_path: str, config: GPTDatasetConfig) -> StoredSequences:
        """Open the documents of the folder ``dataset_path``."""
        return StoredSequences(Path(dataset_path), read_dataset_manifest(Path(dataset_path)))

    @staticmethod
    def numel_low_level_dataset(low_level_dataset: StoredSequences) -> int:
        """Return the number of documents."""
        return len(low_level_dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index``, ``[seq_length + 1]``."""
        tokens: Sample
        tokens, *_ = self._query_document_sample_shuffle_indices(index)  # newer versions return more
        return tokens

    def _build_document_sample_shuffle_indices(self) -> tuple[Any, Any, Any]:
        """Load the index in ``path_to_cache``; samples keep their packing order, and the sample order shuffles them."""
        index = DocumentIndex.load(Path(self.config.path_to_cache))
        return index.documents, index.samples, range(len(index.samples) - 1)


def open_documents(source: DataFolder, index: Path) -> DocumentDataset:
    """Open the packed documents of ``source`` with the index at ``index``. Every rank must call this."""
    config = GPTDatasetConfig(
        random_seed=0,  # unused: the index is already shuffled
        sequence_length=source.seq_length,
        blend=([str(source.path)], None),
        split="1",
        path_to_cache=str(index),
        tokenizer=dataset_tokenizer(source.manifest),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    builder = BlendedMegatronDatasetBuilder(DocumentDataset, [None, None, None], lambda: True, config)
    dataset: DocumentDataset = builder.build()[0]
    dataset.indices = None  # gigabytes of document numbers, which the index holds already
    dataset.source = source
    return dataset
