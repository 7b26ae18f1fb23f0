"""The first links of the chain at test size: a corpus, a tokenizer, and datasets made from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.preprocess.pydoc_corpus import write_pydoc_corpus
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer.training import train_tokenizer

SEQ_LENGTH = 64
VOCAB_SIZE = 512


def write_text_and_tokenizer(folder: Path) -> None:
    """Write ``folder/corpus`` (two training shards, one held out) and ``folder/tokenizer``."""
    write_pydoc_corpus(folder / "corpus", train_shards=2)
    train_tokenizer(TokenizerConfig(input=texts(folder, "train"), output=folder / "tokenizer", vocab_size=VOCAB_SIZE))


def write_dataset(folder: Path, name: str, split: str = "train", **settings: str) -> Path:
    """Write the dataset ``folder/name`` from one split; ``settings`` are those of :class:`PreprocessConfig`."""
    config = PreprocessConfig(
        input=texts(folder, split),
        tokenizer=folder / "tokenizer",
        output=folder / name,
        seq_length=SEQ_LENGTH,
        engine="serial",
    )
    preprocess(replace(config, **settings))  # type: ignore[arg-type]
    return config.output


def texts(folder: Path, split: str) -> tuple[str]:
    """The glob of one split's files."""
    return (str(folder / "corpus" / f"*{split}*"),)
