import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pause_megatron.corpus import columns
from pause_megatron.corpus.parquet import BATCH_ROWS, ParquetSource
from pause_megatron.errors import UserError
from tests.corpus.reading import read, skip

TEXTS = [f"document {i} " + "wörds " * (i % 50) for i in range(3000)]


def invalid_utf8(values):
    """A string column that holds ``values``, which are bytes."""
    column = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(values), column.buffers()[1], column.buffers()[2], column.buffers()[0])


def write(path, column, **settings):
    pq.write_table(pa.table({"url": ["u"] * len(column), "text": column}), path, **settings)
    return path


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("row_group_size", [7, 100_000])
def test_every_kind_of_text_column_is_read(tmp_path, kind, row_group_size):
    path = write(tmp_path / "a.parquet", pa.array(TEXTS, kind), row_group_size=row_group_size)
    assert read(path) == (TEXTS, [], sum(len(text.encode()) for text in TEXTS))


@settings(deadline=None)  # files on a busy disk
@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))), st.integers(1, 60), st.integers(1, 60))
def test_rows_do_not_depend_on_block_sizes(tmp_path_factory, texts, block_bytes, slice_bytes):
    path = write(tmp_path_factory.mktemp("parquet") / "a.parquet", pa.array(texts, pa.string()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "SLICE_BYTES", slice_bytes)
        got = skip(path, block_bytes=block_bytes)
    assert got.texts == [text for text in texts if text is not None]
    assert got.errors == [(row, "no text (null)") for row, text in enumerate(texts, start=1) if text is None]
    assert got.read_bytes == sum(len(text.encode()) for text in got.texts)


def test_bad_rows_stop_with_their_number_or_are_skipped_and_counted(tmp_path):
    values = [b"good", None, b"\xff\xfe", b"x" * 101, b"x" * 100, b""] * 300
    path = write(tmp_path / "a.parquet", invalid_utf8(values))
    with pytest.raises(UserError, match=r'a\.parquet, row 2: no text \(null\); expected a string in column "text"'):
        read(path)
    got = skip(path, max_document_bytes=100)
    assert got.texts == ["good", "x" * 100, ""] * 300
    assert got.errors[:3] == [
        (2, "no text (null)"),
        (3, "not valid UTF-8 (invalid start byte)"),
        (4, "101 bytes long, more than the 100 allowed"),
    ]
    assert [row for row, _ in got.errors] == [6 * i + j for i in range(300) for j in (2, 3, 4)]


@pytest.mark.parametrize("bad", [None, b"\xff", b"x" * 101])
def test_each_kind_of_bad_row_is_reported(tmp_path, bad):
    path = write(tmp_path / "a.parquet", invalid_utf8([b"good", bad, b"good"]))
    got = skip(path, max_document_bytes=100)
    assert got.texts == ["good"] * 2
    assert [row for row, _ in got.errors] == [2]


def test_rows_that_are_not_text_are_errors(tmp_path):
    path = write(tmp_path / "a.parquet", pa.array([1, None, 3]))
    with pytest.raises(UserError, match=r"row 1: not text but int64; expected a string"):
        read(path)
    expected = [(1, "not text but int64"), (2, "no text (null)"), (3, "not text but int64")]
    assert skip(path) == ([], expected, 0)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_error_lists_the_columns(tmp_path, on_error):
    path = write(tmp_path / "a.parquet", pa.array(TEXTS))
    with pytest.raises(UserError, match=r'a\.parquet: no column "body"; set --text-key to one of: url, text'):
        read(path, text_key="body", on_error=on_error)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_missing_file_always_stops(tmp_path, on_error):
    source = ParquetSource(name="a", location=str(tmp_path / "a.parquet"), size_bytes=1)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read: No such file or directory"):
        read(source, on_error=on_error)


def test_file_without_rows_has_no_documents(tmp_path):
    assert read(write(tmp_path / "a.parquet", pa.array([], pa.string()))) == ([], [], 0)


def test_rows_before_damage_are_kept(tmp_path):
    path = write(
        tmp_path / "a.parquet", pa.array(TEXTS), row_group_size=500, write_page_checksum=True, use_dictionary=False
    )
    whole = path.read_bytes()
    bad_name = whole.replace(b"text", b"te\xf4t")
    assert bad_name != whole
    for content in (b"", b"plain", whole[: len(whole) // 2], bad_name):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet: the data is damaged \(.*\); nothing of it can be read"):
            read(path)
        ((line, reason),) = skip(path).errors
        assert (line, "\n" in reason) == (0, False)
    third_group = pq.ParquetFile(pa.BufferReader(whole)).metadata.row_group(2).column(1)
    damaged = bytearray(whole)
    damaged[third_group.data_page_offset + third_group.total_compressed_size // 2] ^= 1
    path.write_bytes(damaged)
    got = skip(path)
    kept = 1000 // BATCH_ROWS * BATCH_ROWS
    assert got.texts == TEXTS[:kept]
    ((line, reason),) = got.errors
    assert line == 0
    assert reason.endswith(f"nothing after row {kept} can be read")
