"""What encoding alone costs: ``python bare_tokenizer.py TOKENIZER ENCODER FILE``, in a process of its own.

The texts of ``FILE`` (``.json.gz``) are read into memory first; then they are given to the library, on one thread, a
block at a time as the tool does, and what it returns is dropped. Prints the processor seconds of that as JSON.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 4 << 20


def main(tokenizer: Path, encoder: str, file: Path) -> None:
    """Encode and print."""
    blocks = _blocks(file)
    encode = _ENCODERS[encoder](tokenizer)
    encode(["A first text, so that what is set up on first use is."])
    started = time.process_time()
    for block in blocks:
        encode(block)
    print(json.dumps({"cpu_seconds": time.process_time() - started}))


def _blocks(file: Path) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    size = 0
    with gzip.open(file) as lines:
        for line in lines:
            blocks[-1].append(json.loads(line)["text"])
            size += len(line)
            if size >= BLOCK_BYTES:
                blocks.append([])
                size = 0
    return blocks


def _sentencepiece(tokenizer: Path) -> Callable[[list[str]], object]:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(tokenizer))
    return lambda texts: processor.encode(texts, return_type="numpy", num_threads=1)


def _gigatoken(tokenizer: Path) -> Callable[[list[str]], object]:
    import gigatoken

    load = gigatoken.Tokenizer.from_sentencepiece if tokenizer.suffix == ".model" else gigatoken.Tokenizer
    loaded = load(str(tokenizer))
    return lambda texts: loaded.encode_batch(texts, parallel=False)


def _tokenizers(tokenizer: Path) -> Callable[[list[str]], object]:
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return lambda texts: loaded.encode_batch_fast(texts, add_special_tokens=False)


_ENCODERS = {"sentencepiece": _sentencepiece, "gigatoken": _gigatoken, "tokenizers": _tokenizers}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
