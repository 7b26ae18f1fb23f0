"""Datasets of every kind, and ways to damage them, for the tests of what merges, verifies and inspects them."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np

from pause_megatron.preprocess.dataset_manifest import (
    DatasetManifest,
    ShardManifest,
    ShardRecord,
    load_dataset_manifest,
    manifest_checksum,
    write_dataset_manifest,
)
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.indexed_files import index_bytes, token_dtype
from pause_megatron.preprocess.run import preprocess
from pause_megatron.records.files import write_record

PAUSE, EOD = 2, 1
"""Ids in all datasets here."""
KINDS = {
    "sequence": "sequence",
    "distinct": "sequence,gaps=distinct",
    "drop": "sequence,trimmed=drop",
    "distinct-drop": "sequence,gaps=distinct,trimmed=drop,seq-length=80",
    "document": "document",
    "document-distinct": "document,gaps=distinct",
    "drawn": "sequence,rates=drawn",
    "document-drawn": "document,rates=drawn,pause-rate=0.3",
    "every": "every,pauses-per-token=3",
    "every-second": "every,pauses-per-token=2,pause-interval=2",
}
"""Name of the dataset, and its ``--also``."""
BY_HAND = {
    "strategy": "document",
    "pause_rate": 1e-4,
    "pauses_per_token": 0,
    "gaps": "repeat",
    "trimmed": "carry",
    "seq_length": 0,
    "seed": 1,
    "text_key": "text",
    "tokenizer_sha256": "0" * 64,
    "encoder": "sentencepiece",
    "pause_id": PAUSE,
    "eod_id": EOD,
}
"""Settings of datasets written by hand."""


def write_datasets(folder, config_for, **changes):
    """Write ``folder/none`` and every one of :data:`KINDS` beside it, from the same three files of text."""
    also = tuple(f"{kind}:{folder / name}" for name, kind in KINDS.items())
    preprocess(config_for(folder / "none", **{"pauses": "none", "seq_length": 64, "also": also, **changes}))
    return folder


def write_by_hand(folder, shards, *, vocab_size=1000, prefix="part", **settings):
    """Write a dataset of documents too short for pauses, with these lengths (tokens) in each of ``shards``."""
    folder.mkdir(parents=True)
    entries = []
    for number, lengths in enumerate(shards):
        lengths = np.array(lengths, dtype=np.int32)
        tokens = np.random.default_rng(number).integers(3, vocab_size, lengths.sum(), dtype=np.int64)
        tokens[np.cumsum(lengths) - 1] = EOD
        name = f"{prefix}-{number}"
        content = tokens.astype(token_dtype(vocab_size)).tobytes()
        index = index_bytes(lengths, token_dtype(vocab_size))
        (folder / f"{name}.bin").write_bytes(content)
        (folder / f"{name}.idx").write_bytes(index)
        entries.append(shard_entry(name, number, lengths, len(content), content, index))
    settings = DatasetSettings(**{**BY_HAND, "vocab_size": vocab_size, **settings})
    for entry in entries:
        write_record(folder / f"{entry.name}.json", ShardRecord(settings=settings, shard=entry))
    manifest = DatasetManifest(**vars(settings), shards=tuple(entries), versions={"python": "3"})
    write_dataset_manifest(folder, manifest)
    return folder


def shard_entry(name, number, lengths, bin_bytes, content, index):
    """The entry of a shard of documents without pauses."""
    return ShardManifest(
        name=name,
        index=number,
        input=f"{name}.jsonl",
        input_bytes=0,
        documents=len(lengths),
        empty_documents=0,
        skipped_records=0,
        skipped=(),
        sequences=len(lengths),
        tokens=int(np.sum(lengths, dtype=np.int64)),
        pauses=0,
        pause_fraction=0.0,
        pause_runs={},
        trimmed_tokens=0,
        tail_tokens=0,
        bin_bytes=bin_bytes,
        bin_sha256=hashlib.sha256(content).hexdigest(),
        idx_bytes=len(index),
        idx_sha256=hashlib.sha256(index).hexdigest(),
    )


class Damaged:
    """A copy of a dataset, to be damaged."""

    def __init__(self, original: Path, folder: Path) -> None:
        self.folder = Path(shutil.copytree(original, folder))
        self.manifest = load_dataset_manifest(folder)
        self.name = (self.manifest.merged or self.manifest.shards)[0].name
        self.bin, self.idx = folder / f"{self.name}.bin", folder / f"{self.name}.idx"
        self.sequences = (self.manifest.merged and self.manifest.sequences) or self.manifest.shards[0].sequences

    def tokens(self):
        """The token ids of the first file."""
        return np.fromfile(self.bin, np.uint16)

    def put(self, place, token):
        """Replace the token at ``place`` of the first file."""
        tokens = self.tokens()
        assert tokens[place] != token, "this would be no damage"
        tokens[place] = token
        self.bin.write_bytes(tokens.tobytes())

    def patch_index(self, byte, kind, value):
        """Write ``value`` (a format of :mod:`struct`) at ``byte`` of the first index."""
        content = bytearray(self.idx.read_bytes())
        struct.pack_into(f"<{kind}", content, byte, value)
        assert bytes(content) != self.idx.read_bytes(), "this would be no damage"
        self.idx.write_bytes(content)

    def lengths_at(self, sequence):
        """Byte of the index where the length of ``sequence`` stands."""
        return 34 + 4 * sequence

    def offsets_at(self, sequence):
        """Byte of the index where the offset of ``sequence`` stands."""
        return 34 + 4 * self.sequences + 8 * sequence

    def boundaries_at(self, number):
        """Byte of the index where document boundary ``number`` stands."""
        return 34 + 12 * self.sequences + 8 * number

    def change_settings(self, **changes):
        """Change settings in all manifests."""
        self._change(lambda content: content.update(changes), lambda record: record["settings"].update(changes))

    def change_entry(self, **changes):
        """Change the first shard's entry in all manifests."""
        self._change(
            lambda content: content["shards"][0].update(changes), lambda record: record["shard"].update(changes), 1
        )

    def _change(self, of_dataset, of_record, records=None):
        self.edit("dataset.json", of_dataset)
        if not self.manifest.merged:
            for shard in self.manifest.shards[:records]:
                self.edit(f"{shard.name}.json", of_record)

    def edit(self, name, change):
        """Change the content of one JSON file, and its checksum if it has one."""
        path = self.folder / name
        content = json.loads(path.read_text(encoding="utf-8"))
        has_checksum = content.pop("sha256", None)
        change(content)
        if has_checksum:
            content["sha256"] = manifest_checksum(content)
        path.write_text(json.dumps(content), encoding="utf-8")


def real_place(copy, start):
    """The first place from ``start`` on of a token that is neither a pause nor the end of a document."""
    tokens = copy.tokens()[start:]
    return start + int(np.flatnonzero((tokens != PAUSE) & (tokens != EOD))[0])
