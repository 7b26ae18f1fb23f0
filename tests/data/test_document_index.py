"""The index is built once per disk, and rebuilt when the data or the order changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from pause_megatron.config.deepspeed import deepspeed_file
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.data import document_index
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.datasets import open_datasets
from pause_megatron.data.document_index import CachedIndex, DocumentIndex
from pause_megatron.errors import UserError
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from tests.data.datasets import Datasets
from tests.distributed import run_distributed

PROCESSES_PER_NODE = 2


def open_everywhere(folders: list[DataFolder], caches: list[Path], seed: int) -> tuple[list[list[int]], bool]:
    """Open the folders as a rank of several nodes; return a sample of each, and whether this rank built an index."""
    launch = detect_launch()
    layout = resolve_layout(
        ParallelConfig(),
        world_size=launch.world_size,
        model=ModelConfig(),
        vocab_size=512,
        deepspeed=deepspeed_file(Path("test.json"), {}),
    )
    initialize_process_groups(launch, layout, seed=1)
    built = []
    save = DocumentIndex.save

    def save_and_record(index: DocumentIndex, path: Path) -> None:
        built.append(path)
        save(index, path)

    DocumentIndex.save = save_and_record  # type: ignore[method-assign]
    try:
        on_node = replace(launch, local_rank=launch.rank % PROCESSES_PER_NODE)
        cache = caches[launch.rank]
        datasets = open_datasets(folders, seed=seed, cache=cache, launch=on_node)
        dist.barrier()
        return [dataset[3].tolist() for dataset in datasets], bool(built)
    finally:
        destroy_process_groups()


def test_one_process_builds_on_a_shared_disk_only_once(datasets: Datasets, tmp_path: Path) -> None:
    folders = [datasets.source("document"), datasets.source("none")]
    shared = [tmp_path] * 4
    first = run_distributed(open_everywhere, 4, folders, shared, 1)
    assert [built for _, built in first] == [True, False, False, False]
    again = run_distributed(open_everywhere, 4, folders, shared, 1)
    assert [built for _, built in again] == [False] * 4
    assert len({str(samples) for samples, _ in first + again}) == 1


def test_first_process_of_each_node_builds_on_its_own_disk(datasets: Datasets, tmp_path: Path) -> None:
    folders = [datasets.source("document")]
    caches = [tmp_path / node for node in ("node0", "node0", "node1", "node1")]
    found = run_distributed(open_everywhere, 4, folders, caches, 1)
    assert [built for _, built in found] == [True, False, True, False]
    assert len({str(samples) for samples, _ in found}) == 1
    (tmp_path / "node1").rename(tmp_path / "lost")  # the node was replaced
    found = run_distributed(open_everywhere, 4, folders, caches, 1)
    assert [built for _, built in found] == [False, False, True, False]


def error_everywhere(folders: list[DataFolder], caches: list[Path]) -> str:
    document_index._VISIBLE_WITHIN_SECONDS = 0.1
    with pytest.raises(UserError) as raised:
        open_everywhere(folders, caches, 1)
    return str(raised.value)


def test_unwritable_cache_is_a_user_error_on_every_rank(datasets: Datasets, tmp_path: Path) -> None:
    in_the_way = tmp_path / "node1"
    in_the_way.write_text("a file")
    caches = [tmp_path / node for node in ("node0", "node0", "node1", "node1")]
    found = run_distributed(error_everywhere, 4, [datasets.source("document")], caches)
    assert len(set(found)) == 1
    assert str(found[0]).startswith(f"--data-cache {in_the_way}: ")


def test_cache_that_the_processes_of_a_node_do_not_share_is_refused(datasets: Datasets, tmp_path: Path) -> None:
    caches = [tmp_path / "shared", tmp_path / "private"]
    found = run_distributed(error_everywhere, 2, [datasets.source("document")], caches)
    assert set(found) == {
        f"--data-cache {tmp_path / 'private'}: rank 1 cannot see the index that local rank 0 of its node wrote; "
        "choose a folder that all processes of a node share"
    }


def test_index_depends_on_data_length_and_order_but_not_on_merging(datasets: Datasets, tmp_path: Path) -> None:
    source = datasets.source("document")
    path = CachedIndex(tmp_path, source, 1).path
    shards = source.manifest.shards
    other_data = replace(source, manifest=replace(source.manifest, shards=shards[1:]))
    changed_shard = replace(shards[0], bin_sha256="0" * 64)
    other_tokens = replace(source, manifest=replace(source.manifest, shards=(changed_shard, *shards[1:])))
    others = [
        CachedIndex(tmp_path, other_data, 1),
        CachedIndex(tmp_path, other_tokens, 1),
        CachedIndex(tmp_path, replace(source, seq_length=32), 1),
        CachedIndex(tmp_path, source, 2),
        CachedIndex(tmp_path, source, None),
    ]
    assert len({path, *(other.path for other in others)}) == 6
    merged = datasets.source("merged-document")
    assert CachedIndex(tmp_path, replace(merged, path=source.path), 1).path == path


def test_index_that_another_process_wrote_meanwhile_is_used(
    datasets: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = CachedIndex(tmp_path, datasets.source("document"), 1)
    build = DocumentIndex.build

    def build_twice(*arguments: object) -> DocumentIndex:
        monkeypatch.setattr(DocumentIndex, "build", build)
        index.build_if_missing()
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DocumentIndex, "build", build_twice)
    index.build_if_missing()
    assert [path.name for path in tmp_path.iterdir()] == [index.path.name]


@pytest.mark.parametrize("name", ["documents.npy", "samples.npy", "sha256.json"])
@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: content[:-8] + bytes(8), None])
def test_damaged_index_is_built_again(
    datasets: Datasets, tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    index = CachedIndex(tmp_path, datasets.source("document"), 1)
    index.build_if_missing()
    path = index.path / name
    content = path.read_bytes()
    if damage:
        path.write_bytes(damage(content))
    else:
        path.unlink()
    index.build_if_missing()
    assert path.read_bytes() == content


def test_samples_follow_each_other_through_documents_of_any_length() -> None:
    lengths = np.array([1, 5, 1, 1, 30, 2], dtype=np.int32)
    index = DocumentIndex.build(lengths, 4, seed=None)
    assert len(index.samples) - 1 == (40 - 1) // 4
    starts = np.cumsum([0, *lengths])
    assert [int(starts[document]) + int(offset) for document, offset in index.samples] == list(range(0, 37, 4))
