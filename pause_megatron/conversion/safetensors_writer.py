"""Writes safetensors files with one tensor in memory at a time.

The safetensors library wants all tensors of a file at once, and copies them. A file consists of eight bytes with the
length of a JSON header, the header with the dtype, shape and byte range of every tensor, and the tensors one after the
other (https://github.com/huggingface/safetensors#format).
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from pause_megatron.atomic import write_file

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name to shape, in the order of writing."""


def divide(shapes: Shapes, *, bytes_per_element: int, max_bytes: int, stem: str) -> dict[str, Shapes]:
    """Divide tensors over files of at most ``max_bytes`` each; a larger tensor gets a file of its own.

    Returns the shapes by file name. Names follow Hugging Face: for example, the ``stem`` ``model`` gives
    ``model.safetensors`` for a single file, and ``model-00001-of-00002.safetensors`` and so on for several.
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
        return {f"{stem}.safetensors": groups[0]}
    numbered = enumerate(groups, start=1)
    return {f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors": group for number, group in numbered}


def write_tensors(
    folder: Path, files: Mapping[str, Shapes], tensors: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype
) -> None:
    """Write ``tensors``, which must come in the order of ``files``, to ``folder``, converted to ``dtype``."""
    for file_name, shapes in files.items():
        header = _header(shapes, dtype)
        with write_file(folder / file_name) as output:
            output.write(struct.pack("<Q", len(header)) + header)
            for expected, shape in shapes.items():
                name, tensor = next(tensors)
                assert (name, tuple(tensor.shape)) == (expected, shape), (name, tensor.shape, expected, shape)
                rounded = tensor.to(dtype).contiguous()
                output.write(rounded.view(torch.uint8).numpy().reshape(-1).data)  # numpy has no bf16: write the bytes
    assert next(tensors, None) is None


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % _ALIGNMENT)  # spaces align the tensors
