#!/usr/bin/env python
"""Texts and tokenizers for the benchmarks.

    python benchmarks/prepare.py --c4 'c4/*.json.gz' --text tasks /usr/share/doc --output work/text

writes shards in C4's format, which you need only if you have too little of C4: its documents, then paragraphs from the
.txt, .md and .rst files and the strings of the .jsonl files in the folders. No document is written twice, because
encoders that cache words look faster on text that repeats. text.json records how much of the text is C4's.

The other benchmarks import the rest: the forms of a text that the tools read, and four tokenizers trained on the text:

=============  =======================================================================================================
``unigram``    SentencePiece unigram as ``pause-megatron tokenizer`` trains it
``t5``         SentencePiece unigram with SentencePiece's defaults, like T5's: NFKC, folded spaces, dummy prefix
``llama``      SentencePiece BPE with byte fallback, like Llama's, also as a Hugging Face tokenizer
``bytes``      byte-level BPE, like GPT-2's, as a Hugging Face tokenizer
=============  =======================================================================================================
"""

from __future__ import annotations

import argparse
import glob
import gzip
import hashlib
import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

KINDS = ("unigram", "t5", "llama", "bytes")
_PAUSE = "<pause>"
_SPACE = "▁"
_SEED = 1234
_TRAINING_CHARACTERS = 30_000_000
_DOCUMENT_CHARACTERS = 2000
"""A document ends with the paragraph that exceeds this; C4's documents have about this length."""
_PARAGRAPH_CHARACTERS = 200
"""Shorter paragraphs are left out, such as headings and table rows."""
_DONE = "done"


@dataclass(frozen=True)
class Text:
    """The same documents, in the same order, in three forms."""

    shards: tuple[Path, ...]
    """Gzipped shards."""
    one: Path
    """All shards in one gzipped file with one member."""
    lines: Path
    """All shards in one plain file."""

    @property
    def json_bytes(self) -> int:
        """Size of the documents as JSON lines."""
        return self.lines.stat().st_size


def find_shards(patterns: list[str], flag: str = "--input") -> list[Path]:
    """The ``.json.gz`` files of ``patterns``, sorted. Ends the program if a pattern has no files."""
    found: set[Path] = set()
    for pattern in patterns:
        paths = {Path(name) for name in glob.glob(pattern)}  # noqa: PTH207 - absolute patterns too
        if not paths:
            raise SystemExit(f"{flag} {pattern}: no such file; give C4 shards, as paths or quoted globs")
        if other := next((path for path in paths if not path.name.endswith(".json.gz")), None):
            raise SystemExit(f"{flag} {other}: expected C4 shards named .json.gz")
        found |= paths
    return sorted(found)


def get_text(shards: list[Path], share: float, copies: int, work: Path) -> Text:
    """The first ``share`` of the documents of each shard, ``copies`` times, in a folder of ``work`` that is reused."""
    described = "\n".join(f"{path.resolve()} {path.stat().st_size} {share} {copies}" for path in shards)
    folder = work / "texts" / hashlib.sha256(described.encode()).hexdigest()[:16]
    text = Text(tuple(folder / "shards" / path.name for path in shards), folder / "one.json.gz", folder / "lines.jsonl")
    if not (folder / _DONE).is_file():
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        with open(text.lines, "wb") as lines, _gzip(text.one) as one:
            for source, target in zip(shards, text.shards, strict=True):
                with _gzip(target) as shard:
                    for line in itertools.chain.from_iterable(_first_lines(source, share) for _ in range(copies)):
                        for file in (shard, one, lines):
                            file.write(line)
        (folder / _DONE).touch()
    return text


def _first_lines(shard: Path, share: float) -> Iterator[bytes]:
    with gzip.open(shard) as lines:
        count = max(1, round(share * sum(1 for _ in lines)))
    with gzip.open(shard) as lines:
        yield from itertools.islice(lines, count)


def _gzip(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(path, "wb", compresslevel=6, mtime=0))


@dataclass(frozen=True)
class Vocabulary:
    """One tokenizer, in the forms that the tools read."""

    kind: str
    ours: Path
    """For this project's tool."""
    huggingface: Path | None
    """Folder with ``tokenizer.json``, which Megatron-LM's ``preprocess_data_fast.py`` needs."""


def get_vocabulary(kind: str, folder: Path, shards: list[Path], size: int) -> Vocabulary:
    """The tokenizer ``kind`` in ``folder``, trained on ``shards`` in a child process unless it is there already."""
    home = folder / f"{kind}-{size}"
    if not (home / _DONE).is_file():
        print(f"training {home} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "train", kind, str(home), str(size), *map(str, shards)]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"--vocabulary-size {size}: training the tokenizer {kind} failed, see above")
    ours = {"unigram": home / "project" / "tokenizer.model", "bytes": home}.get(kind, home / "tokenizer.model")
    return Vocabulary(kind, ours, {"llama": home / "huggingface", "bytes": home}.get(kind))


def _train(kind: str, home: Path, size: int, shards: list[Path]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    if kind == "unigram":
        from pause_megatron.cli.main import main as pause_megatron

        flags = ["--vocab-size", str(size), "--max-training-megabytes", str(_TRAINING_CHARACTERS // 1_000_000)]
        if status := pause_megatron(
            ["tokenizer", "--input", *map(str, shards), "--output", str(home / "project"), *flags]
        ):
            raise SystemExit(status)
    elif kind == "bytes":
        _train_byte_level(home, size, shards)
    else:
        _train_sentencepiece(kind, home, size, shards)
    (home / _DONE).touch()


def _training_texts(shards: list[Path]) -> Iterator[str]:
    for path in shards:
        left = _TRAINING_CHARACTERS // len(shards)
        for text in _c4_texts(path):
            yield text
            left -= len(text)
            if left <= 0:
                break


def _train_sentencepiece(kind: str, home: Path, size: int, shards: list[Path]) -> None:
    from sentencepiece import SentencePieceTrainer

    from pause_megatron.tokenizer.model_file import round_scores

    llama = {
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
    }
    SentencePieceTrainer.train(
        sentence_iterator=(line for text in _training_texts(shards) for line in text.split("\n")),
        model_prefix=str(home / "tokenizer"),
        vocab_size=size,
        control_symbols=[_PAUSE],
        minloglevel=2,
        num_threads=2,
        **(llama if kind == "llama" else {"model_type": "unigram"}),
    )
    model = home / "tokenizer.model"
    model.write_bytes(round_scores(model.read_bytes()))  # our tokenizer rounds too; now all tools give the same ids
    if kind == "llama":
        _write_llama_for_huggingface(model, home / "huggingface")


def _write_llama_for_huggingface(model: Path, folder: Path) -> None:
    """Write the SentencePiece BPE model as ``tokenizer.json``. The score of a piece gives the rank of its merges."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, normalizers

    processor = SentencePieceProcessor(model_file=str(model))
    pieces = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    merges = []
    for piece, i in pieces.items():
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i)):
            splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
            found = sorted((pieces[a], pieces[b], a, b) for a, b in splits if a in pieces and b in pieces)
            merges += [(-processor.get_score(i), *split) for split in found]
    ranked = [(a, b) for *_, a, b in sorted(merges)]
    unknown = processor.id_to_piece(processor.unk_id())
    tokenizer = Tokenizer(models.BPE(pieces, ranked, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _write_huggingface(tokenizer, folder, processor.id_to_piece(processor.eos_id()))


def _train_byte_level(home: Path, size: int, shards: list[Path]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_training_texts(shards), trainer)
    _write_huggingface(tokenizer, home, "<|endoftext|>")


def _write_huggingface(tokenizer: object, folder: Path, end_of_document: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.add_special_tokens([end_of_document, _PAUSE])  # type: ignore[attr-defined]
    tokenizer.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_document,
        "extra_special_tokens": [_PAUSE],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def small_tokenizer(folder: Path) -> Any:
    """A :class:`PauseTokenizer` of 2048 tokens in ``folder``, trained on Python's documentation unless it is there."""
    from pause_megatron.config.tokenizer import TokenizerConfig
    from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
    from pause_megatron.tokenizer import PauseTokenizer
    from pause_megatron.tokenizer.make_tokenizer import train_tokenizer

    if not folder.exists():
        corpus = folder.with_name(f"{folder.name}-corpus")
        write_pydoc_corpus(corpus, train_shards=1)
        train_tokenizer(TokenizerConfig(input=(str(corpus / "*train*"),), output=folder, vocab_size=2048))
    return PauseTokenizer.load(folder)


def _c4_texts(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)


def _documents(folders: list[Path]) -> Iterator[str]:
    """Documents of about 2000 characters from the long paragraphs and strings of ``folders``, each used once."""
    seen: set[str] = set()
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        document: list[str] = []
        for paragraph in _paragraphs(path):
            if len(paragraph) >= _PARAGRAPH_CHARACTERS and paragraph not in seen:
                seen.add(paragraph)
                document.append(paragraph)
                if sum(map(len, document)) >= _DOCUMENT_CHARACTERS:
                    yield "\n".join(document)
                    document = []
        if document:
            yield "\n".join(document)


def _paragraphs(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [value for record in records for value in record.values() if isinstance(value, str)]
    if path.suffix in (".txt", ".md", ".rst"):
        blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="ignore"))
        return [" ".join(block.split()) for block in blocks]
    return []


def main() -> None:
    """Write the shards and ``text.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--c4", nargs="+", required=True, help="C4 shards (.json.gz), as paths or quoted globs")
    parser.add_argument("--text", nargs="*", type=Path, default=[], help="folders of .txt, .md, .rst and .jsonl files")
    parser.add_argument("--shards", type=int, default=8, help="number of shards (default: 8)")
    parser.add_argument("--megabytes", type=float, default=100.0, help="maximal amount of text in MB (default: 100)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    arguments = parser.parse_args()
    groups = {
        "c4": dict.fromkeys(text for path in find_shards(arguments.c4, "--c4") for text in _c4_texts(path)),
        "text": dict.fromkeys(_documents(arguments.text)),
    }
    room, texts, summary = arguments.megabytes * 1e6, [], {}
    for name, group in groups.items():
        sizes = list(itertools.accumulate(len(text.encode()) for text in group))
        chosen = [text for text, size in zip(group, sizes, strict=True) if size <= room]
        used = sizes[len(chosen) - 1] if chosen else 0
        summary[name] = {"documents": len(chosen), "megabytes": round(used / 1e6, 2)}
        texts, room = texts + chosen, room - used
    random.Random(_SEED).shuffle(texts)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for index in range(arguments.shards):
        with _gzip(arguments.output / f"text.{index:05d}-of-{arguments.shards:05d}.json.gz") as file:
            for text in texts[index :: arguments.shards]:
                file.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())
    (arguments.output / "text.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        _train(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), [Path(name) for name in sys.argv[5:]])
    else:
        main()
