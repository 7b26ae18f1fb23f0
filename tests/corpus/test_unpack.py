import gzip
import os
import subprocess
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from pause_megatron.corpus import find_sources, unpack
from pause_megatron.corpus.json_lines import JsonLinesSource
from pause_megatron.errors import UserError
from tests.corpus.reading import PACKINGS, read, skip

LINES = [b'{"text": "%d"}\n' % (i * i) for i in range(5000)]
CONTENT = b"".join(LINES)
GZIP = gzip.compress(CONTENT)
ZSTD_BLOCKS = zstandard.ZstdCompressor(write_checksum=True).compressobj()
ZSTD = b"".join(
    ZSTD_BLOCKS.compress(b"".join(LINES[i : i + 500])) + ZSTD_BLOCKS.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    for i in range(0, 5000, 500)
)
ZSTD += ZSTD_BLOCKS.flush()
TEXTS = [str(i * i) for i in range(5000)]
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\0\0\0notes"


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_every_compression_is_read(tmp_path, name, suffix):
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(PACKINGS[suffix](CONTENT))
    assert read(path) == (TEXTS, [], len(CONTENT))


@pytest.mark.parametrize("block_bytes", [7, 4 << 20])
@pytest.mark.parametrize(
    ("suffix", "content", "times"),
    [
        (".gz", GZIP * 3, 3),
        (".gz", GZIP + b"\0" * 512 + GZIP + b"\0" * 70_000, 2),
        (".gz", gzip.compress(b"") + GZIP + gzip.compress(b""), 1),
        (".gz", gzip.compress(b""), 0),
        (".zst", ZSTD * 3, 3),
        (".zst", SKIPPABLE + ZSTD + SKIPPABLE + ZSTD + SKIPPABLE, 2),
        (".zst", zstandard.ZstdCompressor().compress(b""), 0),
    ],
    ids=["members", "padded", "empty members", "empty", "frames", "skippable frames", "empty frame"],
)
def test_all_members_and_frames_are_read(tmp_path, monkeypatch, block_bytes, suffix, content, times):
    monkeypatch.setattr(unpack, "READ_BYTES", min(block_bytes, unpack.READ_BYTES))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(content)
    assert read(path, block_bytes=block_bytes) == (TEXTS * times, [], len(CONTENT) * times)


@pytest.mark.parametrize(("suffix", "packed"), [(".gz", GZIP), (".zst", ZSTD)])
def test_all_documents_before_truncation_are_kept(tmp_path, suffix, packed):
    path = tmp_path / f"a.jsonl{suffix}"
    kept = []
    for end in [*range(0, len(packed), len(packed) // 40), len(packed) - 1]:
        path.write_bytes(packed[:end])
        got = skip(path)
        unpacked = unpacked_of(suffix, packed[:end])
        assert got.texts == TEXTS[: unpacked.count(b"\n")]
        ((line, reason),) = got.errors
        assert line == 0
        where = f"after line {len(got.texts)}" if got.texts else "of it"
        assert f"data ends too early; nothing {where} can be read" in reason
        kept.append(len(got.texts))
        with pytest.raises(UserError, match=rf"a\.jsonl\{suffix}: the \w+ data ends too early; nothing .*; fetch"):
            read(path)
    assert kept[0] == 0
    assert len(set(kept)) > 8
    path.write_bytes(packed)
    assert read(path).texts == TEXTS


@pytest.mark.parametrize(("suffix", "packed"), [(".gz", GZIP), (".zst", ZSTD)])
def test_truncation_in_a_later_member_or_frame_is_reported(tmp_path, suffix, packed):
    path = tmp_path / f"a.jsonl{suffix}"
    for end in (1, 5, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed + packed[:end])
        got = skip(path)
        assert got.texts[:5000] == TEXTS
        ((line, reason),) = got.errors
        assert line == 0
        assert f"data ends too early; nothing after line {len(got.texts)} can be read" in reason


def test_documents_before_truncation_are_kept_with_small_pieces(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    packed = gzip.compress(b'{"text": "again and again"}\n' * 100)
    for end in range(20, len(packed)):
        path.write_bytes(packed[:end])
        assert skip(path, block_bytes=7) == skip(path)
        assert len(skip(path).texts) == unpacked_of(".gz", packed[:end]).count(b"}")


def unpacked_of(suffix, cut):
    """All that can be got out of data that is cut short."""
    if suffix == ".gz":
        return zlib.decompressobj(31).decompress(cut)
    return zstandard.ZstdDecompressor().decompressobj().decompress(cut) if cut else b""


def test_last_document_before_truncation_is_kept_without_its_newline(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    for content, kept in ((b'{"text": "a"}\n{"text": "b"}', ["a", "b"]), (b'{"text": "a"}\n{"text": "b"', ["a"])):
        path.write_bytes(gzip.compress(content)[:-8])
        got = skip(path)
        assert got.texts == kept
        assert got.errors == [(0, f"the gzip data ends too early; nothing after line {len(kept)} can be read")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json.gz", b"plain text", r"cannot be read: Not a gzipped file \(b'plai'\); nothing of it"),
        ("a.json.gz", b"p", r"cannot be read: Not a gzipped file \(b'p'\); nothing of it"),
        ("a.json.gz", GZIP + b"garbage", r"cannot be read: other data follows the gzip data \(b'garb'\)"),
        ("a.json.gz", GZIP[:-6] + b"zz" + GZIP[-4:], r"the gzip data is damaged, here or before \(.*checksum"),
        ("a.json.gz", GZIP[:-4] + b"zzzz", r"the gzip data is damaged, here or before"),
        ("a.json.gz", GZIP[:40] + b"xxxx" + GZIP[44:], r"the gzip data is damaged, here or before"),
        ("a.json.gz", GZIP[:2] + b"\7" + GZIP[3:], r"the gzip data is damaged, here or before"),
        ("a.json.zst", b"plain text", r"the Zstandard data cannot be unpacked .*; nothing of it"),
        ("a.json.zst", ZSTD + b"garbage", r"the Zstandard data cannot be unpacked .*; nothing after line 5000"),
        ("a.json.zst", ZSTD[:-2] + b"zz", r"the Zstandard data cannot be unpacked .*checksum"),
        ("a.json.zst", ZSTD[:8] + b"\xff" * 40 + ZSTD[48:], r"the Zstandard data cannot be unpacked"),
    ],
)
def test_error_describes_the_damage(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: {complaint}"):
        read(path)
    got = skip(path)
    assert [line for line, _ in got.errors][-1] == 0
    assert f"nothing after line {len(got.texts)} " in got.errors[-1][1] or not got.texts


def test_every_flipped_byte_is_reported(tmp_path):
    packed = bytearray(gzip.compress(CONTENT[:2000], mtime=0))
    path = tmp_path / "a.jsonl.gz"
    header = range(4, 10)  # time, flags and system: nothing that decides the text
    for position in set(range(len(packed))) - set(header):
        packed[position] ^= 0x10
        path.write_bytes(packed)
        assert skip(path).errors, position
        packed[position] ^= 0x10


def test_bad_line_before_truncation_is_reported_first(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES[0] + b"{}\n" + CONTENT)[:-9])
    with pytest.raises(UserError, match="line 2: Object missing"):
        read(path)
    assert [line for line, _ in skip(path).errors] == [2, 0]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_unreadable_file_always_stops(tmp_path, on_error):
    path = tmp_path / "a.jsonl"
    path.write_bytes(CONTENT)
    (source,) = find_sources([str(path)])
    path.unlink()
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read: No such file or directory"):
        read(source, on_error=on_error)
    path.mkdir()
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read: Is a directory"):
        read(source, on_error=on_error)
    path.rmdir()
    path.touch(mode=0)
    with as_nobody(), pytest.raises(UserError, match=r"a\.jsonl: cannot be read: Permission denied"):
        read(source, on_error=on_error)


@contextmanager
def as_nobody():
    """As a user whom file permissions mean something to."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that fails while it is read; not checked")
def test_failing_disk_always_stops():
    source = JsonLinesSource(name="mem", location="/proc/self/mem", size_bytes=0)
    with pytest.raises(UserError, match="/proc/self/mem: cannot be read: Input/output error"):
        skip(source)


def test_gzip_reads_the_same_without_isal(tmp_path):
    program = (
        "import sys; from pathlib import Path; sys.modules['isal'] = None\n"
        "from pause_megatron.corpus import unpack; from tests.corpus.reading import read, skip\n"
        "assert unpack.zlib.__name__ == 'zlib'\n"
        "whole, cut, plain, flipped = map(Path, sys.argv[1:])\n"
        "print(len(read(whole).texts), len(skip(cut).texts), skip(plain).errors, skip(flipped).errors[-1][0])"
    )
    damaged = bytearray(GZIP)
    damaged[-7] ^= 1
    contents = {"whole": GZIP * 2, "cut": GZIP[: len(GZIP) // 2], "plain": b"plain", "flipped": damaged}
    paths = []
    for name, content in contents.items():
        paths.append(tmp_path / f"{name}.json.gz")
        paths[-1].write_bytes(content)
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=False)
    kept = unpacked_of(".gz", contents["cut"]).count(b"\n")
    complaint = "cannot be read: Not a gzipped file (b'plai'); nothing of it can be read"
    assert done.stdout == f'10000 {kept} [(0, "{complaint}")] 0\n', done.stderr
