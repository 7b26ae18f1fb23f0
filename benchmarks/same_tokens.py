"""Whether this project's tool and Megatron-LM's wrote the same tokens: ``python same_tokens.py OURS THEIRS``.

``OURS`` is a dataset folder written with ``--pauses none``, which holds each shard's stream cut into sequences, without
the end that fills none. ``THEIRS`` is the prefix of a ``.bin`` and an ``.idx`` in which a sequence is a document.
Prints, as JSON, the documents and tokens of the text and, with ``THEIRS``, how many documents differ.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pause_megatron.preprocess.dataset_manifest import DatasetManifest, load_dataset_manifest
from pause_megatron.preprocess.indexed_files import token_dtype

_HEADER = struct.Struct("<9sQBQQ")


def compare(ours: Path, theirs: str | None) -> dict[str, int]:
    """Compare document by document; ``theirs`` None: only count."""
    manifest = load_dataset_manifest(ours)
    tokens = sum(shard.tokens + shard.tail_tokens for shard in manifest.shards)
    result = {"documents": sum(shard.documents for shard in manifest.shards), "tokens": tokens}
    if theirs is not None:
        result["differing"] = _differing(ours, manifest, theirs)
    return result


def _differing(ours: Path, manifest: DatasetManifest, theirs: str) -> int:
    dtype = token_dtype(manifest.vocab_size)
    their_tokens = np.memmap(f"{theirs}.bin", dtype=dtype, mode="r")
    ends = np.cumsum(_lengths(Path(f"{theirs}.idx")), dtype=np.int64)
    documents = sum(shard.documents for shard in manifest.shards)
    if len(ends) != documents:
        raise SystemExit(f"{theirs}: {len(ends)} documents, but {documents} in {ours}")
    first = differing = 0
    for shard in manifest.shards:
        start = int(ends[first - 1]) if first else 0
        stored = np.memmap(ours / f"{shard.name}.bin", dtype=dtype, mode="r") if shard.tokens else np.empty(0, dtype)
        if not np.array_equal(stored, their_tokens[start : start + len(stored)]):
            our_ends = np.flatnonzero(stored == manifest.eod_id) + 1
            own = np.split(stored, our_ends)[: len(our_ends)]
            their_ends = ends[first : first + len(own)]
            other = np.split(their_tokens[start : int(their_ends[-1])], their_ends[:-1] - start)
            differing += sum(not np.array_equal(a, b) for a, b in zip(own, other, strict=True))
        first += shard.documents
    return differing


def _lengths(index: Path) -> NDArray[np.int32]:
    """Lengths in tokens of the sequences of a ``.idx`` file."""
    with open(index, "rb") as file:
        *_, sequences, _boundaries = _HEADER.unpack(file.read(_HEADER.size))
        return np.fromfile(file, dtype=np.int32, count=sequences)


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)))
