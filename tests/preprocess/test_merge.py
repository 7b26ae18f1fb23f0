import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from pause_megatron.cli.commands import SUBCOMMANDS
from pause_megatron.cli.main import run_command
from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess import indexed_files
from pause_megatron.preprocess.dataset_manifest import StoredFile, load_dataset_manifest
from pause_megatron.preprocess.indexed_files import index_bytes, index_size, stream_index
from pause_megatron.preprocess.merge import append_range, cut_into_files, merge_datasets, write_merged_index
from pause_megatron.preprocess.shard_spans import ShardSpan
from tests.chain import verified
from tests.preprocess.conftest import contents
from tests.preprocess.finished_datasets import Damaged, shard_entry, write_by_hand, write_datasets
from tests.preprocess.test_preprocess_errors import small_disk

SHARDS = ([5, 2, 9], [3] * 40, [], [2000, 7], [2], [4] * 30)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, config_for):
    return write_datasets(tmp_path_factory.mktemp("datasets"), config_for)


@pytest.fixture
def by_hand(tmp_path):
    return write_by_hand(tmp_path / "by-hand", SHARDS)


def merge(output, *folders, files=1):
    merge_datasets(MergeDatasetsConfig(input=folders, output=output, files=files))
    return verified(output)


def megatrons_merge(folder, prefixes, dtype):
    """What Megatron's own builder makes of the files ``prefixes``: the contents of the .bin and the .idx file."""
    builder = IndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=dtype)
    for prefix in prefixes:
        builder.add_index(str(prefix))
    builder.finalize(str(folder / "theirs.idx"))
    return (folder / "theirs.bin").read_bytes(), (folder / "theirs.idx").read_bytes()


@pytest.mark.parametrize("name", ["sequence", "document"])
def test_merged_files_are_byte_for_byte_megatrons(tmp_path, datasets, name):
    before = load_dataset_manifest(datasets / name)
    merged = merge(tmp_path / "merged", datasets / name)
    assert set(contents(tmp_path / "merged")) == {"merged.bin", "merged.idx", "dataset.json"}
    theirs = megatrons_merge(tmp_path, [datasets / name / shard.name for shard in before.shards], np.uint16)
    assert theirs == tuple((tmp_path / f"merged/merged{suffix}").read_bytes() for suffix in (".bin", ".idx"))
    assert merged.shards == before.shards
    assert merged.versions == before.versions


def test_wide_tokens_and_empty_shards_are_byte_for_byte_megatrons(tmp_path):
    folder = write_by_hand(tmp_path / "wide", SHARDS[1:4], vocab_size=70_000)
    filled = [folder / "part-0", folder / "part-2"]
    merge(tmp_path / "merged", folder)
    theirs = megatrons_merge(tmp_path, filled, np.int32)
    assert theirs == tuple((tmp_path / f"merged/merged{suffix}").read_bytes() for suffix in (".bin", ".idx"))


def test_pieces_of_the_index_join_seamlessly(tmp_path, by_hand, monkeypatch):
    whole = merge(tmp_path / "whole", by_hand)
    monkeypatch.setattr("pause_megatron.preprocess.shard_spans.SEQUENCES_AT_ONCE", 7)
    monkeypatch.setattr(indexed_files, "SEQUENCES_AT_ONCE", 5)
    assert merge(tmp_path / "pieces", by_hand).merged == whole.merged


def test_several_folders_are_joined_in_the_order_given(tmp_path):
    folders = [write_by_hand(tmp_path / name, SHARDS[:4], prefix=name) for name in ("b", "a")]
    merged = merge(tmp_path / "merged", *folders)
    assert [shard.name for shard in merged.shards] == [f"{name}-{number}" for name in "ba" for number in range(4)]
    expected = b"".join(
        (folder / f"{folder.name}-{number}.bin").read_bytes() for folder in folders for number in range(4)
    )
    assert (tmp_path / "merged/merged.bin").read_bytes() == expected


def test_versions_of_all_folders_are_kept(tmp_path):
    folders = [write_by_hand(tmp_path / name, SHARDS[:1], prefix=name) for name in ("a", "b", "c")]
    for folder, versions in zip(folders, ({"x": "1"}, {"x": "2", "y": "1"}, {"x": "1"}), strict=True):
        manifest = json.loads((folder / "dataset.json").read_text())
        del manifest["sha256"]
        (folder / "dataset.json").write_text(json.dumps({**manifest, "versions": versions}))
    assert merge(tmp_path / "merged", *folders).versions == {"x": "1, 2", "y": "1"}


def test_files_are_cut_at_borders_of_shards_and_read_as_one(tmp_path, datasets):
    merged = merge(tmp_path / "merged", datasets / "document", files=2)
    assert [file.name for file in merged.merged] == ["merged-00000-of-00002", "merged-00001-of-00002"]
    assert sum(file.shards for file in merged.merged) == len(merged.shards) == 3
    stored = [sequence for file in merged.merged for sequence in documents(tmp_path / "merged" / file.name)]
    single = [sequence for shard in merged.shards for sequence in documents(datasets / "document" / shard.name)]
    assert stored == single


def documents(prefix):
    dataset = IndexedDataset(str(prefix))
    return [dataset[index].tobytes() for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("sizes", "files", "expected"),
    [
        ([4, 4, 4, 4], 2, [2, 2]),
        ([9, 1, 1, 1], 2, [1, 3]),
        ([1, 1, 1, 9], 2, [3, 1]),
        ([1, 1, 1, 9], 4, [1, 1, 1, 1]),
        ([100, 1, 1, 1], 3, [1, 1, 2]),
        ([5, 0, 0, 5], 2, [3, 1]),
        ([0, 5, 5, 0], 2, [2, 2]),
        ([7, 5, 6, 8, 4], 3, [2, 1, 2]),
    ],
)
def test_cuts_balance_bytes_and_leave_no_file_empty(by_hand, sizes, files, expected):
    lengths = [np.full(size, 2, np.int32) for size in sizes]
    parts = [synthetic_part(by_hand, f"p{number}", some, b"") for number, some in enumerate(lengths)]
    groups = cut_into_files(parts, files)
    assert [len(group) for group in groups] == expected
    assert [part for group in groups for part in group] == parts


def synthetic_part(folder, name, lengths, index):
    entry = shard_entry(name, 0, lengths, 2 * int(np.sum(lengths, dtype=np.int64)), b"", index)
    return ShardSpan(folder, StoredFile.of(entry, (entry,)), entry, 0, 0)


def test_merging_what_was_merged_gives_the_same(tmp_path, datasets):
    once = merge(tmp_path / "once", datasets / "document")
    merge(tmp_path / "two-files", datasets / "document", files=2)
    again = merge(tmp_path / "again", tmp_path / "two-files")
    assert contents(tmp_path / "again") == contents(tmp_path / "once")
    assert again == once
    recut = merge(tmp_path / "recut", tmp_path / "once", files=2)
    assert contents(tmp_path / "recut") == contents(tmp_path / "two-files")
    assert recut.shards == once.shards


def test_index_is_right_past_2_to_the_31_tokens(tmp_path):
    """The index alone: the tokens would take 13 GB."""
    lengths = np.array([2**28, 3, 2**29, 2**28 - 1, 2**28], dtype=np.int32)
    parts = []
    for number in range(5):
        (tmp_path / f"p{number}.idx").write_bytes(index_bytes(lengths, np.dtype(np.uint16)))
        parts.append(synthetic_part(tmp_path, f"p{number}", lengths, index_bytes(lengths, np.dtype(np.uint16))))
    merged = write_merged_index(tmp_path, "merged", parts, np.dtype(np.uint16))
    all_lengths = lengths.tolist() * 5
    ends = [2 * sum(all_lengths[:end]) for end in range(26)]
    assert ends[-1] == merged.bin_bytes > 2**33
    index = indexed_files.IndexFile.open(tmp_path / "merged.idx")
    assert index.offsets(0, 25).tolist() == ends[:-1]
    assert index.lengths(0, 25).tolist() == all_lengths

    marked = np.array([17, 18, 19], dtype=np.uint16)  # the short sequence of the last shard, beyond 2**33 bytes
    with open(tmp_path / "merged.bin", "wb") as file:
        file.truncate(merged.bin_bytes)
        file.seek(ends[21])
        file.write(marked.tobytes())
    dataset = IndexedDataset(str(tmp_path / "merged"))  # kept: its memory map is closed with it
    np.testing.assert_array_equal(dataset[21], marked)


def test_index_of_many_equal_sequences_is_right_past_2_to_the_32_bytes():
    sequences = 2**21 + 5
    pieces = stream_index(lambda: [np.full(sequences, 2048, np.int32)], sequences, np.dtype(np.int32))
    content = b"".join(pieces)
    assert len(content) == index_size(sequences)
    offsets = np.frombuffer(content, "<i8", sequences, offset=34 + 4 * sequences)
    np.testing.assert_array_equal(offsets, np.arange(sequences, dtype=np.int64) * 8192)
    assert offsets[-1] > 2**34


def test_bytes_are_copied_where_the_kernel_cannot(tmp_path, monkeypatch):
    (tmp_path / "source").write_bytes(bytes(range(256)) * 50_000)

    def copied(start, size):
        with open(tmp_path / "source", "rb") as source, open(tmp_path / "target", "wb") as target:
            target.write(b"before")
            target.flush()
            append_range(source.fileno(), start, size, target.fileno(), "source")
        return (tmp_path / "target").read_bytes()

    expected = b"before" + (tmp_path / "source").read_bytes()[100 : 100 + 12_000_000]
    assert copied(100, 12_000_000) == expected
    monkeypatch.delattr(os, "copy_file_range")
    assert copied(100, 12_000_000) == expected
    with pytest.raises(UserError, match="source: ended 101 bytes too early during the copy"):
        copied(0, 12_800_101)


def test_copying_between_file_systems(tmp_path, by_hand):
    with small_disk(tmp_path / "disk", "1m"):
        merge(tmp_path / "disk/merged", by_hand)
        there = contents(tmp_path / "disk/merged")
    merge(tmp_path / "merged", by_hand)
    assert there == contents(tmp_path / "merged")


def test_full_disk_is_named_and_leaves_nothing(tmp_path, datasets):
    with small_disk(tmp_path / "disk", "64k"):
        with pytest.raises(UserError, match="disk/merged: No space left on device; free disk space and run the same"):
            merge(tmp_path / "disk/merged", datasets / "sequence")
        assert list((tmp_path / "disk").iterdir()) == []


DIES_HALF_WAY = """
import os, signal, sys
from pause_megatron.cli.main import main
copy, copies = os.copy_file_range, []
def dying_copy(*arguments, **options):
    copies.append(1)
    if len(copies) == 3:
        print("half way", flush=True)
        (os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == "die" else sys.stdin.readline())
    return copy(*arguments, **options)
os.copy_file_range = dying_copy
main(sys.argv[2:])
"""


def merge_in_a_process(how, output, folder):
    command = [sys.executable, "-c", DIES_HALF_WAY, how, "merge-datasets", "--input", folder, "--output", output]
    return subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_merge_leaves_no_dataset_and_can_be_repeated(tmp_path, by_hand):
    process = merge_in_a_process("die", tmp_path / "merged", by_hand)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path != by_hand]
    assert [(path.name[:8], path.suffix) for path in left] == [(".merged.", ".tmp")]
    merge(tmp_path / "merged", by_hand)
    assert {path.name for path in tmp_path.iterdir()} == {"by-hand", "merged"}


def test_two_merges_to_one_folder_do_not_disturb_each_other(tmp_path, by_hand):
    process = merge_in_a_process("wait", tmp_path / "merged", by_hand)
    assert process.stdout.readline() == "half way\n"
    with pytest.raises(UserError, match=r"merged: another process is writing it, in .*\.tmp; wait for it"):
        merge(tmp_path / "merged", by_hand)
    process.communicate("go on\n", timeout=60)
    assert process.returncode == 0
    verified(tmp_path / "merged")


def test_existing_output_is_not_touched(tmp_path, by_hand):
    (tmp_path / "merged").mkdir()
    with pytest.raises(UserError, match="merged: exists already"):
        merge(tmp_path / "merged", by_hand)
    assert list((tmp_path / "merged").iterdir()) == []


def test_other_settings_are_refused_by_name(tmp_path, by_hand):
    other = write_by_hand(tmp_path / "other", SHARDS, prefix="other", seed=2)
    with pytest.raises(
        UserError, match=r"by-hand was written with seed=1 and .*other with seed=2; merge only datasets"
    ):
        merge(tmp_path / "merged", by_hand, other)
    assert not (tmp_path / "merged").exists()


def test_unfinished_folder_is_refused(tmp_path, by_hand):
    (by_hand / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"by-hand: not a complete dataset \(no dataset.json\)"):
        merge(tmp_path / "merged", by_hand)


def test_the_same_shard_twice_is_refused(tmp_path, by_hand):
    copy = shutil.copytree(by_hand, tmp_path / "copy")
    with pytest.raises(
        UserError, match=r"shard part-0, made from part-0.jsonl, is in both .*by-hand and .*copy; remove"
    ):
        merge(tmp_path / "merged", by_hand, copy)
    with pytest.raises(UserError, match=r"--input: .*by-hand is given twice"):
        merge(tmp_path / "merged", by_hand, by_hand / ".")


def test_more_files_than_shards_are_refused(tmp_path, by_hand):
    with pytest.raises(UserError, match="--files 6: only 5 shards have data; give at most that number"):
        merge(tmp_path / "merged", by_hand, files=6)
    with pytest.raises(UserError, match="--files 0: must be at least 1"):
        merge(tmp_path / "merged", by_hand, files=0)


@pytest.mark.parametrize(
    ("byte", "kind", "value", "complaint"),
    [
        (0, "B", 0, r"part-0.idx: begins with b'\\x00MIDIDX\\x00\\x00', expected b'MMIDIDX\\x00\\x00' at byte 0"),
        (9, "Q", 2, "part-0.idx: version 2 at byte 9, expected 1"),
        (17, "B", 5, r"part-0.idx: token dtype 5 at byte 17, expected one of 4 \(int32\), 8 \(uint16\)"),
        (17, "B", 4, "part-0.idx: has 3 sequences of int32, but its manifest lists 3 of uint16; run `pause"),
        (18, "Q", 2, "part-0.idx: 4 document boundaries at byte 26, expected one more than its 2 sequences"),
        (34, "i", 6, "part-0.idx: the sequences of shard part-0 have 17 tokens together, but its 32 bytes hold 16"),
    ],
)
def test_damaged_index_is_named_before_anything_is_copied(tmp_path, by_hand, byte, kind, value, complaint):
    damaged = Damaged(by_hand, tmp_path / "damaged")
    damaged.patch_index(byte, kind, value)
    with pytest.raises(UserError, match=complaint):
        merge(tmp_path / "merged", damaged.folder)
    assert not (tmp_path / "merged").exists()


def test_command_line(tmp_path, by_hand, capsys):
    arguments = ["--input", str(by_hand), "--output", str(tmp_path / "merged"), "--files", "2"]
    assert run_command(SUBCOMMANDS["merge-datasets"], "merge-datasets", arguments) == 0
    assert "6 shards in merged-00000-of-00002.bin, merged-00001-of-00002.bin" in capsys.readouterr().err
    assert run_command(SUBCOMMANDS["merge-datasets"], "merge-datasets", arguments) == 2
