"""Sources at addresses give the documents of the same files on disk, and a failing driver never looks like damage."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem

from pause_megatron.corpus import find_sources
from pause_megatron.errors import UserError
from pause_megatron.remote_files import is_address
from tests.corpus.reading import read

TEXTS = [f"document {number} " * 50 for number in range(3000)]
LINES = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)
CONTENTS = {
    "a.jsonl": LINES,
    "b.json.gz": gzip.compress(LINES),
    "c.jsonl.zst": zstandard.ZstdCompressor().compress(LINES),
}


@pytest.fixture
def folder(tmp_path):
    """The same documents in files of every kind."""
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "d.parquet")
    return tmp_path


@pytest.fixture
def store(folder):
    """A store in memory with the same files below ``text``."""
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe_file(f"/text/{path.name}", path.read_bytes())
    yield files
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_every_kind_of_file_is_read_from_memory(folder, store):
    sources = find_sources(["memory://text/*"])
    assert [source.name for source in sources] == ["a", "b", "c", "d"]
    assert [source.size_bytes for source in sources] == [path.stat().st_size for path in sorted(folder.iterdir())]
    for source in sources:
        assert read(source).texts == TEXTS, source.location


def test_file_addresses_are_found_as_paths(folder):
    sources = find_sources([f"file://{folder}/*.json*", f"file://{folder}/a.jsonl"])
    assert [source.location for source in sources] == [f"file://{folder}/{name}" for name in sorted(CONTENTS)]
    assert read(sources[1]).texts == TEXTS


def test_text_of_a_web_server_is_read(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/b.json.gz"
        (source,) = find_sources([address])
        assert read(source).texts == TEXTS
        with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:\d+/x\.json\.gz: cannot be listed \(.*404"):
            find_sources([address.replace("b.json", "x.json")])
        server.shutdown()


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("memory://text/x*", r"^--input memory://text/x\*: no such file; give paths or quoted globs"),
        ("memory://text/x.jsonl", r"^--input memory://text/x\.jsonl: no such file"),
        ("memory://text", r"^--input memory://text: is a folder; give the files in it, e\.g\. 'memory://text/\*\.json"),
        ("nope://text/a.jsonl", r"^nope://text/a\.jsonl: cannot be listed \(ValueError: Protocol not known: nope"),
        ("https://127.0.0.1:1/a.jsonl", r"^https://127\.0\.0\.1:1/a\.jsonl: cannot be listed \(.*Connect call failed"),
    ],
)
def test_unusable_address_is_one_line(store, wanted, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        find_sources([wanted])
    assert "\n" not in str(caught.value)


class BrokenStore(MemoryFileSystem):
    """Store whose connection breaks after some bytes."""

    protocol = "broken"

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("broken://", "memory://"))

    def _open(self, path, mode="rb", **kwargs):
        return Breaking(self.cat_file(path))


class Breaking:
    """File of which only the last bytes, which hold the index of Parquet, and 100 others can be read."""

    def __init__(self, content):
        import io

        self._file, self._size = io.BytesIO(content), len(content)
        self.close, self.seek, self.tell = self._file.close, self._file.seek, self._file.tell

    def read(self, size=-1):
        place = self._file.tell()
        if 100 <= place < self._size - 2000 or (place < 100 and size + place > 100):
            if place >= 100:
                raise OSError("the connection was reset")
            size = 100 - place
        return self._file.read(size)


fsspec.register_implementation("broken", BrokenStore, clobber=True)


@pytest.mark.parametrize("name", [*CONTENTS, "d.parquet"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_broken_connection_stops_the_run_in_both_modes(store, name, on_error):
    (source,) = find_sources([f"broken://text/{name}"])
    with pytest.raises(UserError, match=rf"^broken://\S*{name}: cannot be read \(OSError: the connection was reset\)"):
        read(source, on_error=on_error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a", True),
        ("hf://datasets/allenai/c4", True),
        ("hf:allenai/c4:en", False),
        ("/c4/a.jsonl", False),
        ("c4/*.json.gz", False),
        ("C:/a", False),
        ("://b", False),
    ],
)
def test_addresses_are_told_from_paths_and_datasets(text, expected):
    assert is_address(text) is expected
