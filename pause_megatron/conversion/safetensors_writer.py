"""Writes safetensors files tensor by tensor: in memory is one tensor, not a file and a copy of it.

The library wants all tensors of a file at once. The format is simple enough: eight bytes with the length of a JSON
header, the header with every tensor's type, shape and place, and the tensors one after the other
(https://github.com/huggingface/safetensors#format).
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
    """A file that is to be written: which tensors, in which order."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every tensor by its name, in the order they will come."""


def divide(shapes: Mapping[str, tuple[int, ...]], *, element: int, max_bytes: int, stem: str) -> list[TensorFile]:
    """Divide tensors over as many files as it takes for none to be larger than ``max_bytes``, if a tensor is not.

    Args:
        shapes: of all tensors by name, in the order they will be written.
        element: bytes of a number.
        max_bytes: of a file's tensors.
        stem: of the names, which are Hugging Face's: ``model`` gives ``model.safetensors``, or
            ``model-00001-of-00002.safetensors`` and so on.
    """
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        tensor_bytes = math.prod(shape) * element
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
    """Write ``tensors``, which come in the order ``files`` say, to ``folder``, rounded to ``dtype``."""
    for file in files:
        header = _header(file.shapes, dtype)
        with write_file(folder / file.name) as output:
            output.write(struct.pack("<Q", len(header)) + header)
            for expected, shape in file.shapes.items():
                name, tensor = next(tensors)
                assert (name, tuple(tensor.shape)) == (expected, shape), (name, tensor.shape, expected, shape)
                rounded = tensor.to(dtype).contiguous()
                output.write(rounded.view(torch.uint8).numpy().reshape(-1).data)
    assert next(tensors, None) is None


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    """The header of a file, padded with spaces so that the tensors are aligned."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % _ALIGNMENT)
