"""A checkpoint can be read under any layout; damaged or forged files are refused before they are loaded."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from pause_megatron.checkpoint.checkpoint_folders import is_complete
from pause_megatron.checkpoint.checkpoint_manifest import (
    MANIFEST,
    STATE_KEYS,
    DamagedCheckpointError,
    file_checksum,
    read_manifest,
)
from pause_megatron.checkpoint.reader import CheckpointReader, verified_meanwhile
from pause_megatron.errors import UserError
from tests.checkpoint.handmade import (
    MATRIX,
    VECTOR,
    cut,
    cut_short,
    flip_bit,
    rewrite_manifest,
    values,
    write_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "iter_0000010")


def test_complete_parameters_are_joined_from_fragments(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    reader.verify()
    assert (reader.state, reader.optimizer["step"]) == ({"note": "é"}, 3)
    for shard in (MATRIX, VECTOR):
        for key in STATE_KEYS:
            assert torch.equal(reader.read_parameter(shard.name, key), values(shard, key))


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_every_range_of_every_sharding_is_read(checkpoint: Path, tp_size: int) -> None:
    reader = CheckpointReader(checkpoint)
    for shard in (MATRIX, VECTOR):
        for tp_rank in range(tp_size):
            part = cut(shard, tp_size, tp_rank)
            flat = part.slice(values(shard, "exp_avg")).reshape(-1)
            for start in range(len(flat)):
                for length in range(1, len(flat) - start + 1):
                    found = reader.read_range(part, "exp_avg", start, length)
                    assert torch.equal(found, flat[start : start + length])


def test_same_sharding_reads_only_the_files_it_needs(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    for name in ("rank00001.safetensors", "rank00002.safetensors"):
        (checkpoint / name).unlink()
    assert len(reader.read_range(cut(MATRIX, 2, 0), "master", 0, 7)) == 7
    with pytest.raises(DamagedCheckpointError, match=r"rank00001\.safetensors: damaged"):
        reader.read_range(cut(MATRIX, 2, 0), "master", 0, 8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_bit, r"rank00001\.safetensors: damaged \(found \d+ bytes, CRC-32 \w+; written \d+ bytes, CRC-32 \w+\)"),
        (cut_short, r"rank00001\.safetensors: damaged"),
        (Path.unlink, r"rank00001\.safetensors: missing"),
    ],
)
def test_damaged_file_is_named(checkpoint: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(checkpoint / "rank00001.safetensors")
    reader = CheckpointReader(checkpoint)
    with pytest.raises(DamagedCheckpointError, match=message):
        reader.verify()
    reader.verify(part=0, parts=3)
    with pytest.raises(DamagedCheckpointError, match=message):
        reader.verify(part=1, parts=3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\x80",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"format": 1',
        b'{"format": "' + b"x" * 99 + b'\xff"}',
    ],
    ids=["empty", "bytes", "null", "list", "object", "deep", "cut", "no UTF-8"],
)
def test_garbage_instead_of_the_manifest_is_damage(checkpoint: Path, content: bytes) -> None:
    (checkpoint / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: damaged"):
        CheckpointReader(checkpoint)
    assert not is_complete(checkpoint)


def test_manifest_truncated_anywhere_is_damage(checkpoint: Path) -> None:
    content = (checkpoint / MANIFEST).read_bytes()
    for length in range(0, len(content.rstrip()), 97):
        (checkpoint / MANIFEST).write_bytes(content[:length])
        with pytest.raises(DamagedCheckpointError):
            read_manifest(checkpoint)


def test_changed_number_in_the_manifest_is_damage(checkpoint: Path) -> None:
    rewrite_manifest(checkpoint, lambda content: content["optimizer"].update(step=4), seal=False)
    with pytest.raises(DamagedCheckpointError, match="the content does not match its checksum"):
        CheckpointReader(checkpoint)


def test_missing_manifest_is_damage(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: missing"):
        CheckpointReader(checkpoint)


def test_format_of_another_version_is_refused_but_not_as_damage(checkpoint: Path) -> None:
    rewrite_manifest(checkpoint, lambda content: content.update(format="pause_megatron/checkpoint/1"))
    with pytest.raises(UserError, match=r"format 'pause_megatron/checkpoint/1', expected .*use the version") as caught:
        CheckpointReader(checkpoint)
    assert not isinstance(caught.value, DamagedCheckpointError)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/outside.safetensors", "..", "", ".", "a/b", "./a", "a\0b", ".hidden"]
)
def test_file_names_outside_the_folder_are_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / "rank00000.safetensors").rename(checkpoint.parent / "outside.safetensors")

    def move_outside(content: dict[str, Any]) -> None:
        content["files"][name] = content["files"].pop("rank00000.safetensors")
        for fragment in content["fragments"]:
            fragment["file"] = fragment["file"].replace("rank00000.safetensors", name)

    rewrite_manifest(checkpoint, move_outside)
    with pytest.raises(DamagedCheckpointError, match="is not the name of a file in this folder"):
        CheckpointReader(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {"start": 1},
        {"start": -1},
        {"length": 6},
        {"length": 8},
        {"length": 0},
        {"tp_rank": 1},
        {"tp_rank": 2},
        {"tp_size": 1},
        {"tp_size": 0},
        {"name": "vector"},
        {"name": "nowhere"},
        {"file": "../rank00000.safetensors"},
        {"file": "rank00009.safetensors"},
        {"length": "7"},
        {"more": 1},
    ],
    ids=str,
)
def test_fragments_that_do_not_cover_their_parameter_are_refused(checkpoint: Path, change: dict[str, Any]) -> None:
    rewrite_manifest(checkpoint, lambda content: content["fragments"][0].update(change))
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: damaged"):
        CheckpointReader(checkpoint)


def test_missing_and_duplicate_fragments_are_refused(checkpoint: Path) -> None:
    content = (checkpoint / MANIFEST).read_bytes()
    for number in range(5):
        rewrite_manifest(checkpoint, lambda content, number=number: content["fragments"].pop(number))
        with pytest.raises(DamagedCheckpointError, match=r"(matrix|vector)(, shard|: shards|: sharded)"):
            CheckpointReader(checkpoint)
        (checkpoint / MANIFEST).write_bytes(content)
    rewrite_manifest(checkpoint, lambda content: content["fragments"].append(content["fragments"][0]))
    with pytest.raises(DamagedCheckpointError, match="matrix, shard 0: 0 follows 7"):
        CheckpointReader(checkpoint)


@pytest.mark.parametrize("shape", [[8, 4], [9, 3], [-8, -3], [0, 3], [8], [], "83", [10**30, 3]], ids=str)
def test_shapes_that_do_not_match_the_fragments_are_refused(checkpoint: Path, shape: Any) -> None:
    rewrite_manifest(checkpoint, lambda content: content["parameters"]["matrix"].update(shape=shape))
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: damaged"):
        CheckpointReader(checkpoint)


def replace_file(checkpoint: Path, path: Path) -> None:
    """Record the current content of ``path`` in the manifest, as an attacker could."""
    record = msgspec.structs.asdict(file_checksum(path))
    rewrite_manifest(checkpoint, lambda content: content["files"].update({path.name: record}))


def test_tensors_of_another_shape_are_refused_before_loading(checkpoint: Path) -> None:
    path = checkpoint / "rank00002.safetensors"
    save_file({f"{key}/matrix": torch.zeros(6, 2) for key in STATE_KEYS}, path)
    replace_file(checkpoint, path)
    with pytest.raises(DamagedCheckpointError, match=r"master of matrix has shape \[6, 2\], not \[12\]"):
        CheckpointReader(checkpoint).verify()
    save_file({"master/matrix": torch.zeros(12)}, path)
    replace_file(checkpoint, path)
    with pytest.raises(DamagedCheckpointError, match=r"rank00002\.safetensors: damaged \(.*exp_avg/matrix"):
        CheckpointReader(checkpoint).verify()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_are_not_opened(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "rank00002.safetensors"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "unpickled")))
    replace_file(checkpoint, path)
    with pytest.raises(DamagedCheckpointError, match=r"rank00002\.safetensors: damaged"):
        CheckpointReader(checkpoint).verify()
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "unpickled").exists()


def test_checksums_are_compared_during_a_block(checkpoint: Path) -> None:
    with verified_meanwhile(checkpoint) as reader:
        assert torch.equal(reader.read_parameter(MATRIX.name), values(MATRIX, "master"))
    path = next(checkpoint.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # in a tensor
    with pytest.raises(DamagedCheckpointError, match=r"safetensors: damaged \(found"), verified_meanwhile(checkpoint):
        pass
    with pytest.raises(DamagedCheckpointError, match=r"safetensors: damaged \(found"), verified_meanwhile(checkpoint):
        raise UserError("follows from the damage")
    with pytest.raises(KeyboardInterrupt), verified_meanwhile(checkpoint):
        raise KeyboardInterrupt


def test_sizes_are_compared_before_a_block(checkpoint: Path) -> None:
    cut_short(next(checkpoint.glob("*.safetensors")))
    with pytest.raises(DamagedCheckpointError, match="damaged"), verified_meanwhile(checkpoint):
        pytest.fail("the block must not run")


def test_a_checksum_stops_on_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    stop = Event()
    assert file_checksum(tmp_path / "file", stop).bytes == 10
    stop.set()
    with pytest.raises(CancelledError):
        file_checksum(tmp_path / "file", stop)
