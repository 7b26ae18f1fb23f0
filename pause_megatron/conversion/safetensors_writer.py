"""Writes safetensors files with few tensors in memory, and computes their checksums meanwhile.

In memory are the tensor that is written, and a single one, or several of at most 64 MiB, that wait for their checksum.

The safetensors library wants all tensors of a file at once, and copies them. A file consists of eight bytes with the
length of a JSON header, the header with the dtype, shape and byte range of every tensor, and the tensors one after the
other (https://github.com/huggingface/safetensors#format).
"""

import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import torch

from pause_megatron.atomic import write_file
from pause_megatron.flushing import flush_meanwhile

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8
_PENDING_BYTES = 1 << 26
"""Most bytes of several tensors that wait for their checksum, so that writing runs ahead."""

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name to shape, in the order of writing."""


class Digest(Protocol):
    """Checksum of the bytes it has been given, such as ``hashlib.sha256()``."""

    def update(self, content: Any, /) -> None: ...  # noqa: D102


AnyDigest = TypeVar("AnyDigest", bound=Digest)


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
    folder: Path,
    files: Mapping[str, Shapes],
    tensors: Iterator[tuple[str, torch.Tensor]],
    dtype: torch.dtype,
    new_digest: Callable[[], AnyDigest],
) -> dict[str, AnyDigest]:
    """Write ``tensors``, which must come in the order of ``files``, to ``folder``, converted to ``dtype``.

    Returns the digest of each file, computed from the bytes in memory.
    """
    digests = {file_name: new_digest() for file_name in files}
    with ThreadPoolExecutor(1, "digest") as thread:
        for file_name, shapes in files.items():
            with write_file(folder / file_name) as output:
                _write(output, _contents(shapes, tensors, dtype), digests[file_name], thread)
    assert next(tensors, None) is None
    return digests


def _write(output: IO[bytes], contents: Iterator[Any], digest: Digest, thread: Executor) -> None:
    """Write ``contents`` to ``output``. Threads compute the digest, and flush the complete file, meanwhile."""
    pending: deque[tuple[int, Future[None]]] = deque()  # parts that the digest may not have read yet, with their bytes
    try:
        for content in contents:
            output.write(content)
            while pending and sum(size for size, _ in pending) + len(content) > _PENDING_BYTES:
                pending.popleft()[1].result()
            pending.append((len(content), thread.submit(digest.update, content)))
        flush_meanwhile(output)  # flushes in between make writing wait for the disk
    finally:
        for _, digested in pending:
            digested.result()


def _contents(shapes: Shapes, tensors: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype) -> Iterator[Any]:
    """Yield the parts of one file as buffers: its header, and each tensor."""
    header = _header(shapes, dtype)
    yield struct.pack("<Q", len(header)) + header
    for expected, shape in shapes.items():
        name, tensor = next(tensors)
        assert (name, tuple(tensor.shape)) == (expected, shape), (name, tensor.shape, expected, shape)
        rounded = tensor.to(dtype).contiguous()
        yield rounded.view(torch.uint8).numpy().reshape(-1).data  # numpy has no bf16: write the bytes


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % _ALIGNMENT)  # spaces align the tensors
