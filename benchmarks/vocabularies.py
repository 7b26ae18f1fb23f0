"""Tokenizers for the benchmarks, trained on a benchmark's text:

=============  =======================================================================================================
``unigram``    SentencePiece unigram as ``pause-megatron tokenizer`` trains it
``t5``         SentencePiece unigram with SentencePiece's defaults, like T5's: NFKC, folded spaces, dummy prefix
``llama``      SentencePiece BPE with byte fallback, like Llama's, also as a Hugging Face tokenizer
``bytes``      byte-level BPE, like GPT-2's, as a Hugging Face tokenizer
=============  =======================================================================================================
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prepare import DONE, c4_texts

KINDS = ("unigram", "t5", "llama", "bytes")
_PAUSE = "<pause>"
_SPACE = "▁"
_TRAINING_CHARACTERS = 30_000_000


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
    if not (home / DONE).is_file():
        print(f"training {home} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, kind, str(home), str(size), *map(str, shards)]
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
    (home / DONE).touch()


def _training_texts(shards: list[Path]) -> Iterator[str]:
    for path in shards:
        left = _TRAINING_CHARACTERS // len(shards)
        for text in c4_texts(path):
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


if __name__ == "__main__":
    _train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
