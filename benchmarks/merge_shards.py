"""Makes a dataset to merge: ``python merge_shards.py FOLDER DOCUMENTS SHARDS TOKENS``, of TOKENS on average.

The ids are random; what a merge costs does not depend on them.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

MERGED = "merged"
"""Name that ``merge-datasets`` gives to one pair of files."""


def shard_prefixes(folder: Path) -> list[Path]:
    """The shards of a dataset made here, as paths without suffix, in order."""
    return [path.with_suffix("") for path in sorted(folder.glob("*.bin"))]


def main(folder: Path, documents: int, shards: int, mean_tokens: int) -> None:
    """Write the shards and their manifest."""
    import numpy as np

    from pause_megatron.preprocess.dataset_manifest import (
        DATASET_FILE,
        DatasetManifest,
        ShardManifest,
    )
    from pause_megatron.preprocess.indexed_files import index_bytes
    from pause_megatron.records.files import write_record

    random = np.random.default_rng(1234)
    ids = random.integers(3, 32_000, size=documents // shards * mean_tokens * 2, dtype=np.uint16)
    folder.mkdir(parents=True)
    entries = []
    for index in range(shards):
        lengths = random.integers(1, 2 * mean_tokens, size=documents // shards, dtype=np.int32)
        content, idx = ids[: int(lengths.sum())].tobytes(), index_bytes(lengths, ids.dtype)
        name = f"shard.{index:05d}"
        (folder / f"{name}.bin").write_bytes(content)
        (folder / f"{name}.idx").write_bytes(idx)
        entries.append(
            ShardManifest(
                name=name,
                index=index,
                input=f"{name}.json.gz",
                input_bytes=0,
                documents=len(lengths),
                empty_documents=0,
                skipped=(),
                skipped_records=0,
                sequences=len(lengths),
                tokens=len(content) // 2,
                pauses=0,
                pause_fraction=0.0,
                pause_runs={},
                trimmed_tokens=0,
                tail_tokens=0,
                bin_bytes=len(content),
                bin_sha256=hashlib.sha256(content).hexdigest(),
                idx_bytes=len(idx),
                idx_sha256=hashlib.sha256(idx).hexdigest(),
            )
        )
    manifest = DatasetManifest(
        strategy="document",
        pause_rate=0.1,
        pauses_per_token=0,
        gaps="repeat",
        trimmed="carry",
        seq_length=0,
        seed=1234,
        text_key="text",
        tokenizer_sha256="",
        encoder="sentencepiece",
        vocab_size=32_000,
        pause_id=2,
        eod_id=1,
        shards=tuple(entries),
        versions={},
    )
    write_record(folder / DATASET_FILE, manifest)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
