"""Text in: documents from JSON lines, Parquet files and Hugging Face datasets, in blocks of bounded size.

The first step of tokenizer training and of preprocessing alike. :func:`~pause_megatron.corpus.sources.find_sources`
turns what a user names into sources, one for each file or shard, and a source's ``read`` yields its documents in order.
What cannot be read is never left out silently: it stops the run, or is reported with its line.
"""

from pause_megatron.corpus.blocks import Block, InputError, ReadOptions
from pause_megatron.corpus.sources import Source, find_sources

__all__ = ["Block", "InputError", "ReadOptions", "Source", "find_sources"]
