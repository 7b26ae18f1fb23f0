"""Names that are read from a file never lead out of the folder of that file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.checkpoint.checkpoint_manifest import FileChecksum, Manifest, read_manifest
from pause_megatron.config.report import ReportConfig
from pause_megatron.corpus.saved_datasets import saved_dataset_sources
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import (
    DatasetManifest,
    MergedFile,
    ShardManifest,
    load_dataset_manifest,
    read_dataset_manifest,
)
from pause_megatron.records.files import path_beside, plain_record
from pause_megatron.report.write import write_report
from tests.records.examples import example

HOSTILE = (
    *(
        "../outside",
        "a/../../outside",
        "..",
        ".",
        ".hidden",
        "",
        "a/b",
        "/outside",
        "a\0b",
        "x" * 300,
        "é" * 130,
        "\ud83d",
    ),
    *(7, None, True, ["a"], {"a": 1}),
)
SHARD = replace(example(ShardManifest), pause_runs={1: 3})
TEXTS = tuple(name for name in HOSTILE if isinstance(name, str))


def write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


def shard(folder: Path, name: object) -> None:
    values = plain_record(replace(example(DatasetManifest), shards=(SHARD,), merged=()))
    values["shards"][0]["name"] = name
    write(folder / "dataset.json", values)
    read_dataset_manifest(folder)


def merged_file(folder: Path, name: object) -> None:
    values = plain_record(
        replace(example(DatasetManifest), shards=(SHARD,), merged=(replace(example(MergedFile), shards=1),))
    )
    values["merged"][0]["name"] = name
    write(folder / "dataset.json", values)
    read_dataset_manifest(folder)


def saved_file(folder: Path, name: object) -> None:
    write(folder / "state.json", {"_data_files": [{"filename": name}]})
    saved_dataset_sources(folder)


def saved_split(folder: Path, name: object) -> None:
    write(folder / "dataset_dict.json", {"splits": [name]})
    saved_dataset_sources(folder)


def report_file(folder: Path, name: object) -> None:
    write(folder / "report.json", {"format": "pause_megatron/report/1", "files": [name]})
    write_report(ReportConfig(evaluations=(folder / "absent.json",), output=folder))


def checkpoint_file(folder: Path, name: object) -> None:
    files = {str(name): FileChecksum(bytes=1, crc32=0)}
    manifest = Manifest(state={}, optimizer={}, files=files, parameters={}, fragments=[])
    write(folder / "manifest.json", manifest.to_plain())
    read_manifest(folder)


@pytest.mark.parametrize("reader", [shard, merged_file, saved_file, saved_split, report_file])
def test_a_name_that_leads_elsewhere_is_refused(reader: Callable[[Path, object], None], tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    for suffix in ("", ".bin", ".idx"):
        (tmp_path / f"outside{suffix}").write_text("precious")
    for name in HOSTILE:
        with pytest.raises(UserError) as refused:
            reader(folder, str(tmp_path / "outside") if name == "/outside" else name)
        assert str(folder) in str(refused.value)
        assert len(str(refused.value)) < len(str(folder)) + 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "outside", "outside.bin", "outside.idx"]


def test_a_checkpoint_lists_only_files_of_its_folder(tmp_path: Path) -> None:
    for name in TEXTS:
        with pytest.raises(UserError, match=r"manifest\.json: damaged .* is not the name of a file in this folder"):
            checkpoint_file(tmp_path, name)


def test_ordinary_names_and_links_are_accepted(tmp_path: Path) -> None:
    for name in ("c4-train.00000-of-01024", "naïve café", "a\\b", "-rf", "x" * 250):
        assert path_beside(tmp_path / "list.json", name) == tmp_path / name
    (tmp_path / "real").mkdir()
    for suffix in (".bin", ".idx"):  # folders of the Hugging Face cache consist of links
        (tmp_path / "real" / f"shard{suffix}").write_bytes(b"abc")
        (tmp_path / f"text{suffix}").symlink_to(tmp_path / "real" / f"shard{suffix}")
    shard(tmp_path, "text")
    assert load_dataset_manifest(tmp_path).shards[0].name == "text"


def test_a_manifest_that_lists_a_file_twice_or_too_few_shards_is_refused(tmp_path: Path) -> None:
    twice = replace(example(DatasetManifest), shards=(SHARD, SHARD), merged=())
    short = replace(example(DatasetManifest), shards=(SHARD, SHARD), merged=(replace(example(MergedFile), shards=1),))
    for manifest, problem in ((twice, "lists a file twice"), (short, "hold 1 of 2 shards")):
        write(tmp_path / "dataset.json", plain_record(manifest))
        with pytest.raises(UserError, match=problem):
            load_dataset_manifest(tmp_path)
