"""Whole documents (strategy ``document``) as samples: Megatron-core's ``GPTDataset``, which packs them.

Documents are put in random order, one after the other, and cut into samples; the last target of a sample is the first
token of the next. How Megatron-core is used here, and why not otherwise:

- The documents of all files of a folder form one list
  (:class:`~pause_megatron.data.stored_sequences.StoredSequences`), so merging files changes no sample. Megatron-core's
  own way, a ``BlendedDataset`` of one ``GPTDataset`` per file, gives the same documents, but its blending compares all
  files for every sample: minutes for the thousand files of C4.
- The index covers one epoch, whatever the length of the run (Megatron-core's indices depend on it), and
  :mod:`~pause_megatron.data.sample_order` walks over its samples. A prolonged run therefore keeps its order.
- :mod:`~pause_megatron.data.document_index` writes and finds the index. Megatron-core's writer is rank 0 only, so other
  nodes with local disks would not see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.document_index import DocumentIndex
from pause_megatron.data.stored_sequences import StoredSequences
from pause_megatron.data.training_sample import Sample
from pause_megatron.pauses.loss_mask import loss_mask
from pause_megatron.preprocess.dataset_manifest import read_dataset_manifest

_NO_PADDING = -1


@dataclass(frozen=True)
class DatasetTokenizer:
    """What Megatron-core's datasets ask of a tokenizer."""

    vocab_size: int
    eod: int
    pad: int = _NO_PADDING
    """Never an id that occurs: ``GPTDataset`` overwrites tokens with this id by 0."""

    @property
    def unique_identifiers(self) -> dict[str, int]:
        """How the dataset's description names it."""
        return {"vocab_size": self.vocab_size, "eod": self.eod}


class DocumentDataset(GPTDataset):
    """Packed documents of one folder, with the loss dropped where the target is ``<pause>``."""

    source: DataFolder

    @staticmethod
    def build_low_level_dataset(dataset_path: str, config: GPTDatasetConfig) -> StoredSequences:
        """The documents of the folder ``dataset_path``."""
        return StoredSequences(Path(dataset_path), read_dataset_manifest(Path(dataset_path)))

    @staticmethod
    def numel_low_level_dataset(low_level_dataset: StoredSequences) -> int:
        """Number of documents."""
        return len(low_level_dataset)

    def __getitem__(self, idx: int | None) -> Sample:
        """Sample ``idx``. Megatron-core's own mask, which it hands out again and again, is left as it is."""
        sample: Sample = super().__getitem__(idx)
        return {**sample, "loss_mask": loss_mask(sample["labels"], self.dataset.manifest.pause_id).float()}

    def _build_document_sample_shuffle_indices(self) -> tuple[Any, Any, Any]:
        """The index in ``path_to_cache``; samples stay in the order they are packed in, the walk shuffles them."""
        index = DocumentIndex.load(Path(self.config.path_to_cache))
        return index.documents, index.samples, range(len(index.samples) - 1)


def open_documents(source: DataFolder, index: Path) -> DocumentDataset:
    """The packed documents of ``source``, by the index at ``index``. To be called in every process."""
    manifest = source.manifest
    config = GPTDatasetConfig(
        random_seed=0,  # the index has been shuffled
        sequence_length=source.seq_length,
        blend=([str(source.path)], None),
        split="1",
        path_to_cache=str(index),
        tokenizer=DatasetTokenizer(vocab_size=manifest.vocab_size, eod=manifest.eod_id),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    builder = BlendedMegatronDatasetBuilder(DocumentDataset, [None, None, None], lambda: True, config)
    dataset: DocumentDataset = builder.build()[0]
    dataset.indices = None  # a number for each document, gigabytes of them, which the index holds already
    dataset.source = source
    return dataset
