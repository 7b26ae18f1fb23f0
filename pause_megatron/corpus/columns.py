"""Reader of documents from Arrow columns of text, shared by Parquet files and datasets.

A row without a string is an error, like a line without one. Columns are read in slices of bounded bytes, so that long
documents do not accumulate in memory. Python code runs for single rows only if a slice contains an error.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pause_megatron.corpus.blocks import Block, BlockBuilder, ReadOptions, Source, too_long
from pause_megatron.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow

SLICE_BYTES = 1 << 20
"""Bytes of text converted to Python strings at a time; a longer text is a slice of its own."""


class ColumnSource(Source):
    """Source of one column of text."""

    def read(self, options: ReadOptions) -> Iterator[Block]:
        """Yield the documents in order; see :class:`Source`."""
        import pyarrow

        builder = BlockBuilder(self.location, "row", f'a string in column "{options.text_key}"', options)
        try:
            for column in map(_plain, self._columns(options.text_key)):
                lengths = _text_bytes(column)
                for rows in _slices(lengths, min(options.block_bytes, SLICE_BYTES)):
                    _read_slice(column[rows.start : rows.stop], lengths[rows], options.max_document_bytes, builder)
                    yield from builder.full_blocks()
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one: names of columns
            if isinstance(error, OSError) and error.errno is not None:  # an error of the system, not of the data
                raise UserError(f"{self.location}: cannot be read: {os.strerror(error.errno)}") from error
            builder.reject_rest(f"the data is damaged ({one_line(error)})")
        yield from builder.last_block()

    @abstractmethod
    def _columns(self, text_key: str) -> Iterator[pyarrow.Array]:
        """Yield the column ``text_key`` in parts."""

    def _require_column(self, text_key: str, names: Sequence[str]) -> None:
        """Raise :class:`UserError` if ``text_key`` is not among the columns ``names``."""
        if text_key not in names:
            known = ", ".join(names) or "none"
            raise UserError(f'{self.location}: no column "{text_key}"; set --text-key to one of: {known}')


def _plain(column: pyarrow.Array) -> pyarrow.Array:
    """Convert encodings of text that few Arrow functions support."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column.validate(full=True)  # of damaged files, the library reads outside their memory
        column = column.dictionary_decode()
    elif pyarrow.types.is_string_view(column.type):
        column.validate(full=True)
    return column.cast(pyarrow.large_string()) if pyarrow.types.is_string_view(column.type) else column


def _text_bytes(column: pyarrow.Array) -> NDArray[np.int64]:
    """UTF-8 bytes of each row, shape ``[rows]``; 0 for null, and for all rows of a column that is not text."""
    import pyarrow
    import pyarrow.compute

    column.validate()
    if not _is_text(column.type):
        return np.zeros(len(column), dtype=np.int64)
    _check_offsets(column)
    lengths: NDArray[np.int64] = pyarrow.compute.binary_length(column).fill_null(0).to_numpy().astype(np.int64)
    return lengths


def _check_offsets(column: pyarrow.Array) -> None:
    """Raise ``ArrowInvalid`` if a text is outside the column's data, which the library notices only for the last one.

    Full validation would also refuse the complete column for one text that is not UTF-8.
    """
    import pyarrow

    _, offsets, data = column.buffers()
    if len(column):
        kind = np.dtype(np.int64 if pyarrow.types.is_large_string(column.type) else np.int32)
        ends: np.ndarray = np.frombuffer(offsets, dtype=kind, count=column.offset + len(column) + 1)[
            column.offset :
        ]  # [rows + 1]
        if ends[0] < 0 or (ends[1:] < ends[:-1]).any() or ends[-1] > (data.size if data else 0):
            raise pyarrow.ArrowInvalid("a text lies outside the data")


def _is_text(kind: pyarrow.DataType) -> bool:
    return str(kind) in ("string", "large_string")


def _slices(lengths: NDArray[np.int64], slice_bytes: int) -> Iterator[slice]:
    """Yield slices of consecutive rows: at most ``slice_bytes`` bytes, at least one row."""
    ends = np.cumsum(lengths)  # bytes up to the end of each row, [rows]
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + slice_bytes, side="right")))
        yield slice(start, stop)
        start = stop


def _read_slice(column: pyarrow.Array, lengths: NDArray[np.int64], max_bytes: int, builder: BlockBuilder) -> None:
    if not (_is_text(column.type) and column.null_count == 0 and lengths.max() <= max_bytes and _take(column, builder)):
        for row, length in zip(column, lengths.tolist(), strict=True):
            builder.record += 1
            if reason := _take_row(row, length, max_bytes, builder):
                builder.reject(reason)
    builder.read_bytes += int(lengths.sum())


def _take(column: pyarrow.Array, builder: BlockBuilder) -> bool:
    """Add all texts at once; returns False, without adding any, if one is not UTF-8."""
    import pyarrow

    try:
        texts = column.to_numpy(zero_copy_only=False).tolist()
    except (pyarrow.ArrowException, UnicodeDecodeError):
        return False
    builder.texts += texts
    builder.record += len(texts)
    return True


def _take_row(row: pyarrow.Scalar, length: int, max_bytes: int, builder: BlockBuilder) -> str | None:
    """Add one text, or return the reason why it cannot be read."""
    if not row.is_valid:
        return "no text (null)"
    if not _is_text(row.type):
        return f"not text but {row.type}"
    if length > max_bytes:
        return too_long(length, max_bytes)
    try:
        builder.texts.append(row.as_py())
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 ({error.reason})"
    return None
