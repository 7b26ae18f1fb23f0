"""Files of weights are what the safetensors library reads, and their digests are those of the files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pause_megatron.checkpoint.checkpoint_manifest import RunningChecksum, file_checksum
from pause_megatron.conversion.safetensors_writer import divide, write_tensors

TENSORS = {
    "a": torch.arange(6.0).view(2, 3).t(),  # not contiguous
    "b": torch.full((5000,), 0.3),
    "c": torch.zeros(1),
    "d": torch.arange(3000.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_bytes", [10_000, 1_000_000])
def test_digests_are_those_of_the_files(dtype: torch.dtype, max_bytes: int, tmp_path: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    files = divide(shapes, bytes_per_element=dtype.itemsize, max_bytes=max_bytes, stem="model")
    assert len(files) == (1 if max_bytes > 20_000 else 4 if dtype == torch.float32 else 3)
    sha256 = write_tensors(tmp_path, files, iter(TENSORS.items()), dtype, hashlib.sha256)
    crc32 = write_tensors(tmp_path, files, iter(TENSORS.items()), dtype, RunningChecksum)
    read: dict[str, torch.Tensor] = {}
    for name in files:
        assert sha256[name].hexdigest() == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert crc32[name].result == file_checksum(tmp_path / name)
        read |= load_file(tmp_path / name)
    assert all(torch.equal(read[name], tensor.to(dtype)) for name, tensor in TENSORS.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
