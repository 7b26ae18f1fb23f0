"""Readers of documents from JSON lines, Parquet files and Hugging Face datasets, in blocks of bounded size.

Used by tokenizer training and preprocessing. :func:`~pause_megatron.corpus.sources.find_sources` turns ``--input`` into
sources, one for each file or shard, and the ``read`` method of a source yields its documents in order. An unreadable
record is never skipped silently: it stops the run, or is reported with its line.
"""

from pause_megatron.corpus.blocks import Block, InputError, ReadOptions, Source
from pause_megatron.corpus.sources import find_sources

__all__ = ["Block", "InputError", "ReadOptions", "Source", "find_sources"]
