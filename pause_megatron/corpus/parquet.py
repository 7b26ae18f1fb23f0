"""Parquet in: the text column of a ``.parquet`` file, a few rows at a time.

Pages are read as they are needed, and no other column is: memory, some 60 MiB, does not grow with a file or its row
groups; for a long document it is up to 6 times its bytes, and for 128 long ones in a row as much for each. pyarrow is
imported when the first such file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pause_megatron.corpus.blocks import Block, ReadOptions
from pause_megatron.corpus.columns import read_columns, require_column

if TYPE_CHECKING:
    import pyarrow

PARQUET_SUFFIX = ".parquet"
BATCH_ROWS = 128
"""Rows unpacked at a time: this many documents of the greatest length are in memory at the worst."""
_PAGE_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """One Parquet file."""

    name: str
    location: str
    size_bytes: int

    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the file's documents in order.

        Raises :class:`~pause_megatron.errors.UserError` when the file cannot be opened or has no such column and,
        unless errors are to be skipped, at the first row that is no string or too long, and where the file is damaged.
        """
        return read_columns(_columns(self.location, options.text_key), self.location, options)


def _columns(location: str, text_key: str) -> Iterator[pyarrow.Array]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(
        location, pre_buffer=False, buffer_size=_PAGE_BUFFER_BYTES, page_checksum_verification=True
    ) as file:
        require_column(text_key, file.schema_arrow.names, location)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[text_key], use_threads=False):
            yield batch.column(text_key)
