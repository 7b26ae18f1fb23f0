"""``manifest.json`` of a tokenizer folder: which file it is, its ids, and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pause_megatron.atomic import write_json
from pause_megatron.tokenizer.pause_tokenizer import PauseTokenizer
from pause_megatron.versions import versions

MANIFEST_FILE = "manifest.json"
FORMAT = "pause_megatron/tokenizer/1"


def write_manifest(folder: Path, tokenizer: PauseTokenizer, origin: dict[str, Any]) -> None:
    """Describe ``tokenizer``, which lies in ``folder``; ``origin`` says what it was made from."""
    description = {
        "format": FORMAT,
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "pause_id": tokenizer.pause_id,
        "eod_id": tokenizer.eod_id,
    }
    write_json(folder / MANIFEST_FILE, {**description, **origin, "versions": versions()})
