"""Sources of ``hf:NAME[:CONFIG[:SPLIT]]``: one for each shard of a dataset that the ``datasets`` library streams.

NAME is an argument of ``datasets.load_dataset``: a dataset of the Hugging Face Hub, or a local folder of data files.
The library is slow to import, so it is imported only for such an input. It holds a row group of a Parquet file in
memory, or a few megabytes of JSON lines.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pause_megatron.corpus.columns import ColumnSource
from pause_megatron.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow

HUB_PREFIX = "hf:"
_BATCH_ROWS = 1000
_DAMAGE = (ValueError, EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True, kw_only=True)
class HubSource(ColumnSource):
    """One shard of a streamed dataset; its number of shards must not have changed when it is read."""

    dataset: str
    config: str
    split: str
    shard: int
    shards: int

    def _columns(self, text_key: str) -> Iterator[pyarrow.Array]:
        dataset = _load(self.dataset, self.config, self.split)
        if dataset.num_shards != self.shards:
            raise UserError(f"{self.location}: the dataset now has {dataset.num_shards} shards; start again")
        with _without_torch():
            shard = dataset.shard(num_shards=self.shards, index=self.shard).with_format("arrow")
        with _translated_errors(self.location):
            for table in shard.iter(batch_size=_BATCH_ROWS):
                self._require_column(text_key, table.column_names)
                yield from table.column(text_key).chunks


def hub_sources(wanted: str) -> list[HubSource]:
    """Shards of the dataset ``wanted``, e.g. ``hf:allenai/c4:en:train``.

    Raises :class:`UserError` if it is not of the form ``hf:NAME[:CONFIG[:SPLIT]]``, or ``datasets`` does not find it.
    """
    name, config, split, *more = [*wanted.removeprefix(HUB_PREFIX).split(":"), "", ""]
    if not name or len(more) > 2 or any(more):
        raise UserError(f"--input {wanted}: expected hf:NAME[:CONFIG[:SPLIT]], e.g. hf:allenai/c4:en:train")
    split = split or "train"
    _load.cache_clear()
    dataset = _load(name, config or None, split)
    config, shards = dataset.config_name, dataset.num_shards
    short = Path(name).name if Path(name).is_dir() else name
    numbers = [f"{shard:05d}-of-{shards:05d}" for shard in range(shards)]
    return [
        HubSource(
            name=re.sub(r"[^\w.-]+", "-", f"{short}-{config}-{split}-{number}").lstrip(".-"),
            location=f"{HUB_PREFIX}{name}:{config}:{split}#{number}",
            dataset=name,
            config=config,
            split=split,
            shard=shard,
            shards=shards,
        )
        for shard, number in enumerate(numbers)
    ]


@lru_cache(maxsize=1)
def _load(name: str, config: str | None, split: str) -> Any:
    """Open a ``datasets.IterableDataset``; raises :class:`UserError` with the call that failed."""
    import datasets

    try:
        with _without_torch():
            return datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        tried = f"datasets.load_dataset({name!r}, {config!r}, split={split!r}, streaming=True)"
        raise UserError(f"--input {HUB_PREFIX}{name}: {tried} failed: {_one_line(error)}") from error


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep ``datasets`` from importing torch, which it does for every streamed dataset but does not need for text."""
    from datasets import config

    was_available, config.TORCH_AVAILABLE = config.TORCH_AVAILABLE, False
    try:
        yield
    finally:
        config.TORCH_AVAILABLE = was_available


@contextmanager
def _translated_errors(location: str) -> Iterator[None]:
    """Convert errors: damaged data keeps the rows before it, but a failing network must stop the run."""
    import pyarrow

    try:
        yield
    except (UserError, pyarrow.ArrowException):
        raise
    except _DAMAGE as error:
        raise pyarrow.ArrowInvalid(_one_line(error)) from error
    except Exception as error:
        raise UserError(
            f"{location}: datasets failed while reading: {_one_line(error)}; run the command again"
        ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
