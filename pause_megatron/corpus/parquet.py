"""Sources of ``.parquet`` files; only the text column is read, a few rows at a time.

Memory is about 60 MiB, and does not grow with the size of a file or its row groups. A long document takes up to 6 times
its bytes, and so does each of 128 long documents in a row. pyarrow is imported when the first file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pause_megatron.corpus.columns import ColumnSource
from pause_megatron.remote_files import is_address, open_input

if TYPE_CHECKING:
    import pyarrow

PARQUET_SUFFIX = ".parquet"
BATCH_ROWS = 128
"""Rows decoded at a time; in the worst case, all of them are long documents in memory."""
_PAGE_BUFFER_BYTES = 1 << 20


class ParquetSource(ColumnSource):
    """One Parquet file."""

    def _columns(self, text_key: str) -> Iterator[pyarrow.Array]:
        import pyarrow.parquet

        with ExitStack() as files:
            opened = files.enter_context(open_input(self.location)) if is_address(self.location) else self.location
            options = {"buffer_size": _PAGE_BUFFER_BYTES, "page_checksum_verification": True, "pre_buffer": False}
            file = files.enter_context(pyarrow.parquet.ParquetFile(opened, **options))
            self._require_column(text_key, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[text_key], use_threads=False):
                yield batch.column(text_key)
