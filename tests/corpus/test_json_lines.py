import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pause_megatron.corpus import ReadOptions, json_lines, unpack
from pause_megatron.errors import UserError
from tests.corpus.reading import PACKINGS, read, skip

GOOD = b'{"text": "good"}\n'
MARK = b"\xef\xbb\xbf"
BAD_LINES = [
    (b'{"text": "cut', "not valid JSON"),
    (b"\x0c", "not valid JSON"),
    (b'{"text": "a"} {"text": "b"}', "not valid JSON"),
    (b'{"text": "a"}, ', "not valid JSON"),
    (b'{"text": "a\x01"}', "not valid JSON"),
    (b'{"text": "\\ud800"}', "not valid JSON"),
    (b'{"text": "\\udc00 low first"}', "surrogate"),
    (b'{"text": 5}', "Expected `str`, got `int`"),
    (b'{"text": null}', "Expected `str`, got `null`"),
    (b'{"body": "x"}', "missing required field `text`"),
    (b'["x"]', "Expected `object`, got `array`"),
    (b'"x"', "Expected `object`, got `str`"),
    (b'{"text": "\xff\xfe"}', "not valid UTF-8"),
    (b'{"text": "\xed\xa0\x80"}', "not valid UTF-8"),
    (MARK + b'{"text": "after a byte order mark"}', "not valid JSON"),
    (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "text": "y"}', "nested too deeply"),
]
texts = st.text(st.characters(exclude_categories=["Cs"]))


def line(text):
    return json.dumps({"url": "u", "text": text}, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lines")


@settings(max_examples=400, deadline=None)  # files on a busy disk
@given(
    lines=st.lists(
        texts.map(line)
        | st.sampled_from([b"", b" \t", b"\r", b"  " + GOOD[:-1] + b"\r", *(bad for bad, _ in BAD_LINES[:-1])])
        | st.sampled_from([b'{"text":', b'"split over lines"}', GOOD[:-1] * 2])
    ),
    last_newline=st.booleans(),
    sizes=st.tuples(*[st.integers(1, 200)] * 3),
    packing=st.sampled_from(list(PACKINGS)),
)
def test_documents_and_errors_do_not_depend_on_block_sizes(folder, lines, last_newline, sizes, packing):
    content = b"\n".join(lines) + b"\n" * last_newline
    path = folder / f"a.jsonl{packing}"
    path.write_bytes(PACKINGS[packing](content))
    expected, wrong = [], []
    for number, one in enumerate(content.removeprefix(MARK).split(b"\n"), start=1):
        try:
            if one.strip(b" \t\r"):
                expected.append(json.loads(one.decode())["text"])
                expected[-1].encode()
                assert isinstance(expected[-1], str)
        except (ValueError, LookupError, TypeError, AssertionError, AttributeError):
            wrong.append(number)
    block_bytes, read_bytes, parsed_bytes = sizes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpack, "READ_BYTES", read_bytes)
        patch.setattr(json_lines, "PARSED_BYTES", parsed_bytes)
        got = skip(path, block_bytes=block_bytes)
        assert [number for number, _ in got.errors] == wrong
        if wrong:
            with pytest.raises(UserError, match=f"{re.escape(str(path))}, line {wrong[0]}: "):
                read(path, block_bytes=block_bytes)
        else:
            assert read(path, block_bytes=block_bytes) == got
    assert got.read_bytes == len(content)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("content", [GOOD * 3, b"\n" + GOOD, GOOD[:-1], b"", b"\n"])
def test_a_byte_order_mark_at_the_beginning_changes_nothing(tmp_path, packing, content):
    found = []
    for name, start in (("with", MARK), ("without", b"")):
        path = tmp_path / f"{name}.jsonl{packing}"
        path.write_bytes(PACKINGS[packing](start + content))
        found.append(read(path, block_bytes=20))
    assert (found[0].texts, found[0].read_bytes) == (found[1].texts, found[1].read_bytes + len(MARK))


@pytest.mark.parametrize(("bad", "complaint"), BAD_LINES)
@pytest.mark.parametrize("block_bytes", [20, 1 << 20])
def test_bad_line_stops_with_its_number_or_is_skipped_and_counted(tmp_path, bad, complaint, block_bytes):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD * 6 + bad + b"\n\n" + GOOD * 3 + bad)
    with pytest.raises(UserError, match=re.escape(f"{path}, line 7: ") + ".*" + re.escape(complaint)) as stopped:
        read(path, block_bytes=block_bytes)
    assert "\n" not in str(stopped.value)
    assert str(stopped.value).endswith('; expected one JSON object per line with a string "text"')
    got = skip(path, block_bytes=block_bytes)
    assert got.texts == ["good"] * 9
    assert [number for number, _ in got.errors] == [7, 12]
    assert all(complaint in reason for _, reason in got.errors)
    assert got.read_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (GOOD + b'{"text":\n"split"}\n' + GOOD[:-1] * 2 + b"\n" + GOOD, [2, 3, 4]),
        (b"\n" + GOOD[:-1] * 2, [2]),
        (GOOD[:-1] * 2 + b"\n\n", [1]),
        (b'{"text":\n"split"}' + GOOD[:-1], [1, 2]),
    ],
)
def test_objects_across_lines_and_two_on_a_line_are_errors_even_if_the_counts_match(tmp_path, content, wrong):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    got = skip(path)
    assert set(got.texts) <= {"good"}
    assert [number for number, _ in got.errors] == wrong


@pytest.mark.parametrize("key", ["content", "raw text", "ключ", "a.b", ""])
def test_text_key_can_be_any_name(tmp_path, key):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": 1, key: "wanted"}) + "\n")
    assert read(path, text_key=key).texts == ["wanted"]
    path.write_text('{"text": "other"}\n')
    with pytest.raises(UserError, match="line 1: Object missing required field"):
        read(path, text_key=key)


@pytest.mark.parametrize("key", ['a"b', "a\\b", "text\n"])
def test_unsupported_text_key_is_refused(tmp_path, key):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(UserError, match=r"--text-key '.*': keys with quotes"):
        read(tmp_path / "a.jsonl", text_key=key)


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_long_line_is_an_error_and_its_neighbours_are_read(tmp_path, block_bytes):
    path = tmp_path / "a.jsonl"
    longest = b'{"text": "good"' + b" " * 84 + b"}"
    for content in (longest, b" " + longest, longest[:-1] + b" " * 500 + b"}"):
        path.write_bytes(GOOD * 2 + content + b"\n" + GOOD * 2 + content)
        got = skip(path, max_document_bytes=100, block_bytes=block_bytes)
        wrong = [] if content == longest else [3, 6]
        assert [number for number, _ in got.errors] == wrong
        assert got.texts == ["good"] * (6 - len(wrong))
        assert got.read_bytes == path.stat().st_size
        for _, reason in got.errors:
            assert reason == f"{len(content)} bytes long, more than the 100 allowed"
    with pytest.raises(UserError, match="line 3: 600 bytes long, more than the 100 allowed"):
        read(path, max_document_bytes=100)


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\n\t\r\n "])
def test_file_without_lines_has_no_documents(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert read(tmp_path / "a.jsonl") == ([], [], len(content))


def test_empty_documents_are_kept(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n' * 2)
    assert read(tmp_path / "a.jsonl").texts == ["", ""]


def test_many_errors_come_in_many_blocks(tmp_path):
    (source,) = json_source(tmp_path, b"x\n" * 300_000)
    blocks = list(source.read(ReadOptions(on_error="skip")))
    assert len(blocks) == 2
    assert [error.line for block in blocks for error in block.errors] == list(range(1, 300_001))


def test_blocks_have_about_the_given_size(tmp_path):
    (source,) = json_source(tmp_path, (line("word " * 400) + b"\n") * 3000)
    sizes = [block.read_bytes for block in source.read(ReadOptions(block_bytes=1 << 20))]
    assert len(sizes) > 4
    assert all(1 << 20 <= size < 3 << 20 for size in sizes[:-1])


def test_blocks_of_a_small_file_can_be_small(tmp_path):
    (source,) = json_source(tmp_path, GOOD * 100)
    assert len(list(source.read(ReadOptions(block_bytes=100)))) > 10


def json_source(folder, content):
    path = folder / "a.jsonl"
    path.write_bytes(content)
    return (json_lines.JsonLinesSource(name="a", location=str(path), size_bytes=len(content)),)
