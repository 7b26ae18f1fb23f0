"""Peak memory stated in the modules' docstrings, each measured in a child process."""

import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

MIB = 1 << 20
MEASURE = """
import sys
from pause_megatron.corpus import ReadOptions, find_sources

def memory(kind):  # not ru_maxrss, which also counts the process this one was forked from
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) / 1024

(source,) = find_sources(sys.argv[1:2])
options = ReadOptions(on_error="skip", max_document_bytes=int(sys.argv[2]))
if source.location.endswith(".parquet"):
    import pyarrow.parquet
start, documents, read_bytes, errors, handed_on = memory("VmHWM"), 0, 0, [], 0
for block in source.read(options):
    documents, read_bytes = documents + len(block.texts), read_bytes + block.read_bytes
    errors += block.errors
    handed_on = max(handed_on, memory("VmRSS") - start)
    del block
print(documents, read_bytes, len(errors), memory("VmHWM") - start, handed_on)
"""
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peaks of memory cannot be measured here"
)


def measure(path, max_document_bytes=256 * MIB):
    """Documents, bytes and errors read; the peaks of memory, and of that while blocks are handed on, in MiB."""
    command = [sys.executable, "-c", MEASURE, str(path), str(max_document_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documents, read_bytes, errors, *mebibytes = done.stdout.split()
    return int(documents), int(read_bytes), int(errors), *map(float, mebibytes)


def pack(path, mebibyte, times):
    """Write ``mebibyte`` so many times."""
    packer = (
        zlib.compressobj(1, zlib.DEFLATED, 31) if path.suffix == ".gz" else zstandard.ZstdCompressor().compressobj()
    )
    with open(path, "wb") as file:
        for _ in range(times):
            file.write(packer.compress(mebibyte))
        file.write(packer.flush())
    return path


@pytest.mark.parametrize(("suffix", "bound"), [(".gz", 24), (".zst", 128)])
def test_blank_lines_take_no_memory(tmp_path, suffix, bound):
    documents, read_bytes, errors, peak, _ = measure(pack(tmp_path / f"a.jsonl{suffix}", b"\n" * MIB, 128))
    assert (documents, read_bytes, errors) == (0, 128 * MIB, 0)
    assert peak < bound


@pytest.mark.parametrize(("suffix", "bound"), [(".gz", 24), (".zst", 128)])
def test_overlong_line_is_discarded_while_it_is_read(tmp_path, suffix, bound):
    path = pack(tmp_path / f"a.jsonl{suffix}", b"x" * MIB, 128)
    documents, read_bytes, errors, peak, _ = measure(path, max_document_bytes=4 * MIB)
    assert (documents, read_bytes, errors) == (0, 128 * MIB, 1)
    assert peak < bound


@pytest.mark.parametrize(("text", "times"), [("plain text ", 2), ("escaped \\n ", 3), ("beyond \N{GRINNING FACE} ", 6)])
def test_long_document_takes_a_few_times_its_length(tmp_path, text, times):
    line = b'{"text": "' + text.encode() * (40 * MIB // len(text.encode())) + b'"}\n'
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "before"}\n' + line + b'{"text": "after"}\n', compresslevel=1))
    documents, _, errors, peak, handed_on = measure(path)
    assert (documents, errors) == (3, 0)
    width = 4 if text.startswith("beyond") else 1  # bytes a character takes in Python
    assert handed_on < width * len(line) / MIB + 16
    assert peak < times * len(line) / MIB + 24


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    peaks = []
    for rows in (5_000, 20_000):
        path = tmp_path / f"{rows}.parquet"
        texts = [f"{row} " + "word " * 1000 for row in range(rows)]
        pq.write_table(pa.table({"text": texts}), path, row_group_size=rows, compression="none")
        assert path.stat().st_size > rows * 5000
        documents, _, errors, peak, _ = measure(path)
        assert (documents, errors) == (rows, 0)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 16
