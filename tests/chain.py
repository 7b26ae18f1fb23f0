"""The first steps of the chain at test size: a corpus, a tokenizer, and datasets."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from pause_megatron.config.dataset import VerifyDatasetConfig
from pause_megatron.config.preprocess import InsertionConfig, PreprocessConfig
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, load_dataset_manifest
from pause_megatron.preprocess.run import preprocess
from pause_megatron.preprocess.verification.verify_dataset import verify_dataset
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer

SEQ_LENGTH = 64
VOCAB_SIZE = 512


def write_text_and_tokenizer(folder: Path, **settings: Any) -> None:
    """Write ``folder/corpus`` (two training shards, one held out) and ``folder/tokenizer``."""
    write_pydoc_corpus(folder / "corpus", train_shards=2)
    config = TokenizerConfig(
        input=texts(folder, "train"), output=folder / "tokenizer", vocab_size=VOCAB_SIZE, **settings
    )
    train_tokenizer(config)


def write_dataset(folder: Path, name: str, split: str = "train", **settings: Any) -> Path:
    """Write the dataset ``folder/name`` from one split; ``settings`` are those of :func:`preprocess_config`."""
    config = preprocess_config(
        input=texts(folder, split),
        tokenizer=folder / "tokenizer",
        output=folder / name,
        **{"seq_length": SEQ_LENGTH, "engine": "serial", **settings},
    )
    preprocess(config)
    return config.output


def preprocess_config(**settings: Any) -> PreprocessConfig:
    """Build a configuration from its fields and those of its insertion, without sections as on the command line."""
    insertion = {field.name: settings.pop(field.name) for field in fields(InsertionConfig) if field.name in settings}
    return PreprocessConfig(insertion=InsertionConfig(**insertion), **settings)


def verified(folder: Path) -> DatasetManifest:
    """Verify a dataset completely, including its hashes, and return its manifest."""
    verify_dataset(VerifyDatasetConfig(data=folder, workers=1))
    return load_dataset_manifest(folder)


def texts(folder: Path, split: str) -> tuple[str]:
    """Return the glob of the files of one split."""
    return (str(folder / "corpus" / f"*{split}*"),)
