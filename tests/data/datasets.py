"""Datasets of every strategy from the same text, written and merged by the real commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.document_index import CachedIndex
from pause_megatron.data.packed_documents import DocumentDataset, open_documents
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.merge import merge_datasets
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from tests.chain import SEQ_LENGTH, VOCAB_SIZE, write_dataset

FIXED_LENGTH = ("sequence", "drop", "every", "none")
STRATEGIES = (*FIXED_LENGTH, "document")
SHARDS = 3


@dataclass(frozen=True)
class Datasets:
    """A folder with ``corpus``, ``tokenizer``, a dataset for each of :data:`STRATEGIES`, and each dataset merged into
    two files, for example ``none`` and ``merged-none``."""

    folder: Path

    @property
    def tokenizer(self) -> PauseTokenizer:
        return PauseTokenizer.load(self.folder / "tokenizer")

    def source(self, name: str, weight: float | None = None, seq_length: int = SEQ_LENGTH) -> DataFolder:
        path = self.folder / name
        return DataFolder(
            path=path, name=name, manifest=load_dataset_manifest(path), seq_length=seq_length, weight=weight
        )

    def documents(self, cache: Path, name: str = "document", seed: int | None = 5) -> DocumentDataset:
        """Open the packed documents of a dataset in one process."""
        index = CachedIndex(cache, self.source(name), seed)
        index.build_if_missing()
        return open_documents(index.source, index.path)


def write_datasets(folder: Path) -> Datasets:
    """Write everything: one pass over the text for all strategies."""
    corpus = write_pydoc_corpus(folder / "corpus", train_shards=SHARDS)
    train_tokenizer(
        TokenizerConfig(input=tuple(map(str, corpus.train)), output=folder / "tokenizer", vocab_size=VOCAB_SIZE)
    )
    also = (
        f"sequence,trimmed=drop:{folder / 'drop'}",
        f"every:{folder / 'every'}",
        f"none:{folder / 'none'}",
        f"document:{folder / 'document'}",
    )
    write_dataset(folder, "sequence", also=also)
    for name in STRATEGIES:
        merge_datasets(MergeDatasetsConfig(input=(folder / name,), output=folder / f"merged-{name}", files=2))
    return Datasets(folder)
