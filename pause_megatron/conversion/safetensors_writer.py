"""Writes safetensors files with one tensor in memory at a time.

The safetensors library wants all tensors of a file at once, and copies them. A file consists of eight bytes with the
length of a JSON header, the header with the dtype, shape and byte range of every tensor, and the tensors one after the
other (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pause_megatron.atomic import write_file

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """One file to write."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor name to shape, in the order of the file."""


def divide(
    shapes: Mapping[str, tuple[int, ...]], *, bytes_per_element: int, max_bytes: int, stem: str
) -> list[TensorFile]:
    """Divide tensors over files of at most ``max_bytes`` each; a larger tensor gets a file of its own.

    ``shapes`` are in the order of writing. Files are named as Hugging Face names them: the ``stem`` ``model`` gives
    ``model.safetensors`` for a single file, or else ``model-00001-of-00002.safetensors`` and so on.
    """
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        tensor_bytes = math.prod(shape) * bytes_per_element
        if groups[-1] and size + tensor_bytes > max_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = shape
        size += tensor_bytes
    if len(groups) == 1:
        return [TensorFile(name=f"{stem}.safetensors", shapes=groups[0])]
    return [
        TensorFile(name=f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors", shapes=group)
        for number, group in enumerate(groups, start=1)
    ]


def write_tensors(
    folder: Path, files: Iterable[TensorFile], tensors: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype
) -> None:
    """Write ``tensors``, which must come in the order of ``files``, to ``folder``, converted to ``dtype``."""
    for file in files:
        header = _header(file.shapes, dtype)
        with write_file(folder / file.name) as output:
            output.write(struct.pack("<Q", len(header)) + header)
            for expected, shape in file.shapes.items():
                name, tensor = next(tensors)
                assert (name, tuple(tensor.shape)) == (expected, shape), (name, tensor.shape, expected, shape)
                rounded = tensor.to(dtype).contiguous()
                output.write(rounded.view(torch.uint8).numpy().reshape(-1).data)  # numpy has no bf16: write the bytes
    assert next(tensors, None) is None


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % _ALIGNMENT)  # spaces align the tensors
