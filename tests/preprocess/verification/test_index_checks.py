"""Damage to files and indices, found without the help of hashes where that is possible."""

import numpy as np
import pytest

from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, MergedFile
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import IndexFile, index_bytes
from pause_megatron.preprocess.merge import merge_datasets
from pause_megatron.preprocess.shard_spans import spans_of
from pause_megatron.preprocess.verification.faults import Faults
from pause_megatron.preprocess.verification.index_checks import check_index
from tests.preprocess.finished_datasets import BY_HAND, Damaged, shard_entry, write_by_hand


@pytest.mark.parametrize(
    ("byte", "kind", "value", "said"),
    [
        (8, "B", 1, r"begins with b'MMIDIDX\x00\x01', expected b'MMIDIDX\x00\x00' at byte 0"),
        (9, "Q", 3, "version 3 at byte 9, expected 1"),
        (17, "B", 6, "token dtype 6 at byte 17, expected one of 4 (int32), 8 (uint16)"),
        (17, "B", 4, "token dtype at byte 17 is int32, expected uint16"),
        (26, "Q", 0, "0 document boundaries at byte 26, expected one more than its {sequences} sequences"),
    ],
)
def test_header(damaged, faults, byte, kind, value, said):
    copy = damaged("document")
    copy.patch_index(byte, kind, value)
    assert faults(copy.folder, hashes=False) == [
        f"{copy.name}.idx: " + said.replace("{sequences}", str(copy.sequences))
    ]
    assert f"{copy.name}.idx: its SHA-256 is not the manifest's; its content has changed" in faults(copy.folder)


def test_number_of_sequences(damaged, faults):
    copy = damaged("document")
    copy.patch_index(18, "Q", copy.sequences - 1)
    copy.patch_index(26, "Q", copy.sequences)
    size = copy.idx.stat().st_size
    said = f"has {size} bytes, expected {size - 20} for the {copy.sequences - 1} sequences at byte 18"
    assert faults(copy.folder, hashes=False) == [f"{copy.name}.idx: {said}"]


@pytest.mark.parametrize("name", ["sequence", "document"])
def test_length(damaged, faults, name):
    copy = damaged(name)
    byte = copy.lengths_at(3)
    copy.patch_index(byte, "i", 1)
    first, *others = faults(copy.folder, hashes=False)
    expected = (
        "64" if name == "sequence" else "the length of a document of at least one token with pauses at a rate of 0.1"
    )
    assert first == f"{copy.name}.idx: sequence 3 (byte {byte}): length 1, expected {expected}"
    assert others[0].startswith(f"{copy.name}.idx: sequence 4 (byte {copy.offsets_at(4)}): offset in the .bin file ")
    assert others[1].startswith(f"{copy.name}.idx: tokens of all lengths are ")
    assert len(others) == 2


def test_offset(damaged, faults):
    copy = damaged("sequence")
    copy.patch_index(copy.offsets_at(9), "q", 9 * 128 + 1)
    said = f"sequence 9 (byte {copy.offsets_at(9)}): offset in the .bin file 1153, expected 1152"
    assert faults(copy.folder, hashes=False) == [f"{copy.name}.idx: {said}"]


@pytest.mark.parametrize("number", [0, 5, -1])
def test_document_boundary(damaged, faults, number):
    copy = damaged("sequence")
    number %= copy.sequences + 1
    copy.patch_index(copy.boundaries_at(number), "q", 77)
    said = f"sequence {number} (byte {copy.boundaries_at(number)}): document boundary 77, expected {number}"
    assert faults(copy.folder, hashes=False) == [f"{copy.name}.idx: {said}"]


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize("change", [-1, 1])
def test_size(damaged, faults, suffix, change):
    copy = damaged("document")
    path = copy.folder / (copy.name + suffix)
    content, size = path.read_bytes(), path.stat().st_size
    path.write_bytes(content[:-1] if change < 0 else content + b"\0")
    assert faults(copy.folder) == [f"{path.name}: size in bytes is {size + change}, expected {size}"]


def test_missing_files(damaged, faults):
    copy = damaged("document")
    copy.bin.unlink()
    copy.idx.unlink()
    said = "missing, though the manifest lists it"
    assert faults(copy.folder) == [f"{copy.name}.bin: {said}", f"{copy.name}.idx: {said}"]


def test_shards_before_the_cut_of_a_merged_file_are_still_checked(damaged, faults):
    copy = damaged("document-merged")
    copy.put(0, 1024)
    copy.bin.write_bytes(copy.bin.read_bytes()[:-10])
    found = faults(copy.folder)
    assert [line.partition(":")[0] for line in found] == [
        "merged.bin",
        *[f"merged.bin, shard {copy.manifest.shards[0].name}"] * 2,
    ]


def test_lengths_that_changed_after_merging(damaged, faults):
    """Lengths that fit together, and an index whose hash is the manifest's: but they are not those of the shard."""
    copy = damaged("none-merged")
    name = copy.manifest.shards[1].name
    copy.edit("dataset.json", lambda content: content["shards"][1].update(idx_sha256="0" * 64))
    said = f"merged.idx, shard {name}: the lengths of its sequences are not those it was written with"
    assert faults(copy.folder) == [said]
    assert faults(copy.folder, hashes=False) == []


def test_index_past_2_to_the_31_tokens(tmp_path):
    lengths = np.array([2**29, 5, 2**29, 2**29 - 7], dtype=np.int32)
    merged = index_bytes(np.tile(lengths, 3), np.dtype(np.uint16))
    (tmp_path / "merged.idx").write_bytes(merged)
    size = 2 * int(lengths.sum(dtype=np.int64))
    shards = tuple(shard_entry(f"p{number}", number, lengths, size, b"", b"") for number in range(3))
    file = MergedFile(name="merged", shards=3, bin_bytes=3 * size, idx_bytes=len(merged), idx_sha256="")
    settings = DatasetSettings(**BY_HAND, vocab_size=1000)
    manifest = DatasetManifest(**vars(settings), shards=shards, merged=(file,), versions={})

    def found():
        faults = Faults()
        for part in spans_of(tmp_path, manifest):
            check_index(part, IndexFile.open(tmp_path / "merged.idx"), settings, faults)
        return faults.lines()

    assert found() == ()
    content = bytearray(merged)
    byte = 34 + 4 * 12 + 8 * 11  # the last offset, as 32-bit arithmetic would have it
    offset = 3 * size - 2 * int(lengths[-1])
    content[byte + 4 : byte + 8] = bytes(4)
    (tmp_path / "merged.idx").write_bytes(content)
    (line,) = found()
    assert line.endswith(f"sequence 11 (byte {byte}): offset in the .bin file {offset % 2**32}, expected {offset}")


def swap(folder, one, other):
    for suffix in (".bin", ".idx"):
        paths = [folder / (name + suffix) for name in (one, other)]
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, reversed(contents), strict=True):
            path.write_bytes(content)


def test_swapped_shards(damaged, faults):
    copy = damaged("document")
    one, other = (shard.name for shard in copy.manifest.shards[:2])
    swap(copy.folder, one, other)
    found = faults(copy.folder)
    for name in (one, other):
        assert any(line.startswith(f"{name}.bin: size in bytes is ") for line in found)
        assert any(line.startswith(f"{name}.idx: ") for line in found)


def test_swapped_shards_of_equal_size(tmp_path, faults):
    folder = write_by_hand(tmp_path / "data", [[5, 9], [9, 5]])
    swap(folder, "part-0", "part-1")
    changed = "its SHA-256 is not the manifest's; its content has changed"
    assert faults(folder) == [
        f"part-0.idx: {changed}",
        f"part-1.idx: {changed}",
        *[f"part-{n}.bin: the SHA-256 of bytes 0 to 28 is not the manifest's; the content has changed" for n in (0, 1)],
    ]
    swap(folder, "part-0", "part-1")
    assert faults(folder) == []
    merge_datasets(MergeDatasetsConfig(input=(folder,), output=tmp_path / "merged"))
    copy = Damaged(tmp_path / "merged", tmp_path / "copy")
    content = copy.bin.read_bytes()
    copy.bin.write_bytes(content[28:] + content[:28])
    found = faults(copy.folder)
    for number in (0, 1):  # the ends of documents show it, and the hash
        label = f"merged.bin, shard part-{number}: "
        assert [line.removeprefix(label)[:8] for line in found if line.startswith(label)] == [
            "sequence",
            "sequence",
            "the SHA-",
        ]
