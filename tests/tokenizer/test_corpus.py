import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.corpus import expand_inputs, read_documents

GOOD = b'{"text": "good"}\n'


def documents(path, block_bytes=1 << 20):
    return [document for block in read_documents(path, block_bytes) for document in block]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(1, 200), st.booleans())
def test_documents_do_not_depend_on_block_size(tmp_path_factory, texts, block_bytes, last_newline):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    lines = "\n".join(json.dumps({"url": "u", "text": text}, ensure_ascii=False) for text in texts)
    path.write_bytes((lines + "\n" * last_newline).encode())
    assert documents(path, block_bytes) == texts


def test_gzip_of_several_members_is_read_whole(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(GOOD * 3) + gzip.compress(GOOD * 2))
    assert documents(path) == ["good"] * 5


def test_empty_file_has_no_documents(tmp_path):
    (tmp_path / "a.jsonl").touch()
    assert documents(tmp_path / "a.jsonl") == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"text": "cut', "not valid JSON"),
        (b'{"text": 5}', "Expected `str`, got `int`"),
        (b'{"text": null}', "Expected `str`, got `null`"),
        (b'{"body": "x"}', "missing required field `text`"),
        (b'["x"]', "Expected `object`, got `array`"),
        (b'{"text": "\xff\xfe"}', "not valid UTF-8"),
    ],
)
@pytest.mark.parametrize("block_bytes", [20, 1 << 20])
def test_bad_line_is_named_by_file_and_number(tmp_path, line, complaint, block_bytes):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD * 6 + line + b"\n" + GOOD * 3)
    with pytest.raises(UserError, match=re.escape(f"{path}, line 7: ") + ".*" + re.escape(complaint)):
        documents(path, block_bytes)


def test_blank_lines_are_skipped_and_counted(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + b"\n  \n" + GOOD + b"{")
    with pytest.raises(UserError, match="line 5: not valid JSON"):
        documents(path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda data: data[:-12], "cut short"),
        (lambda data: b"plain text" + data, "Not a gzipped file"),
        (lambda data: data[:-6] + b"zz" + data[-4:], "CRC"),
        (lambda data: data[:40] + b"xxxx" + data[44:], "cannot be read"),
    ],
)
def test_damaged_gzip_is_named(tmp_path, damage, complaint):
    path = tmp_path / "damaged.json.gz"
    path.write_bytes(damage(gzip.compress(b"".join(b'{"text": "%d"}\n' % (i * i) for i in range(5000)))))
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + complaint):
        documents(path)


def test_globs_give_each_file_once_sorted(tmp_path):
    for name in ("b.jsonl", "a.json.gz", "c.json"):
        (tmp_path / name).touch()
    found = expand_inputs((str(tmp_path / "b*"), str(tmp_path / "*"), str(tmp_path / "c.json")))
    assert [path.name for path in found] == ["a.json.gz", "b.jsonl", "c.json"]


def test_empty_glob_and_unknown_kind_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"--input .*\*\.gz: no such file"):
        expand_inputs((str(tmp_path / "*.gz"),))
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UserError, match=r"a\.parquet: unknown kind of file; its name should end in \.json\.gz"):
        expand_inputs((str(tmp_path / "*"),))
