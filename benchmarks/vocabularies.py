"""The four tokenizers that the benchmarks compare with, trained on the benchmark's own text into a work folder.

=============  ======================================================================================================
``unigram``    SentencePiece unigram as ``pause-megatron tokenizer`` trains it
``t5``         SentencePiece unigram with SentencePiece's defaults, T5's kind: NFKC, spaces folded, dummy prefix
``llama``      SentencePiece BPE with byte fallback, Llama's kind, and the same as a Hugging Face tokenizer
``bytes``      byte-level BPE, GPT-2's kind, as a Hugging Face tokenizer
=============  ======================================================================================================

Each has ``<pause>`` and an end-of-document token. What is there from an earlier run is used again. Training is a
command of its own (``python vocabularies.py ...``, started by the benchmarks), so that the process that measures stays
small.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("unigram", "t5", "llama", "bytes")
PAUSE = "<pause>"
_SPACE = "▁"
_TRAINING_BYTES = 30_000_000
_DONE = "done"


@dataclass(frozen=True)
class Vocabulary:
    """One tokenizer, in the forms that the tools take."""

    kind: str
    ours: Path
    """For this project's tool."""
    huggingface: Path | None
    """Folder with ``tokenizer.json``; what ``preprocess_data_fast.py`` needs."""

    @property
    def classic_flags(self) -> list[str]:
        """Flags of Megatron-LM's ``preprocess_data.py``."""
        if self.kind == "bytes":
            return ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(self.ours)]
        return ["--tokenizer-type", "SentencePieceTokenizer", "--tokenizer-model", str(self.ours)]

    @property
    def fast_flags(self) -> list[str]:
        """Flags of Megatron-LM's ``preprocess_data_fast.py``."""
        assert self.huggingface is not None, f"{self.kind}: the fast tool reads BPE only"
        return [
            "--tokenizer-type",
            "HuggingFaceTokenizer",
            "--tokenizer-model",
            str(self.huggingface),
            "--use-gigatoken",
        ]


def get_vocabulary(kind: str, folder: Path, shards: list[Path], size: int) -> Vocabulary:
    """The tokenizer ``kind`` in ``folder``, trained on ``shards`` unless an earlier run left it there."""
    home = folder / f"{kind}-{size}"
    if not (home / _DONE).is_file():
        print(f"training {home} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, kind, str(home), str(size), *map(str, shards)]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"--vocabulary-size {size}: training the tokenizer {kind} failed, for the reason above")
    ours = {"unigram": home / "project" / "tokenizer.model", "bytes": home}.get(kind, home / "tokenizer.model")
    huggingface = {"llama": home / "huggingface", "bytes": home}.get(kind)
    return Vocabulary(kind, ours, huggingface)


def train(kind: str, home: Path, size: int, shards: list[Path]) -> None:
    """Train the tokenizer ``kind`` with ``size`` tokens on the beginning of each of ``shards``, into ``home``."""
    home.mkdir(parents=True, exist_ok=True)
    if kind == "unigram":
        from pause_megatron.cli.main import main as pause_megatron

        flags = ["--vocab-size", str(size), "--max-training-megabytes", str(_TRAINING_BYTES // 1_000_000)]
        status = pause_megatron(["tokenizer", "--input", *map(str, shards), "--output", str(home / "project"), *flags])
        if status:
            raise SystemExit(status)
    elif kind == "bytes":
        _train_byte_level(home, size, shards)
    else:
        _train_sentencepiece(kind, home, size, shards)
    (home / _DONE).touch()


def _texts(shards: list[Path]) -> Iterator[str]:
    for path in shards:
        left = _TRAINING_BYTES // len(shards)
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                text = json.loads(line)["text"]
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
    lines = (line for text in _texts(shards) for line in text.split("\n"))
    SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_prefix=str(home / "tokenizer"),
        vocab_size=size,
        control_symbols=[PAUSE],
        minloglevel=2,
        num_threads=2,
        **(llama if kind == "llama" else {"model_type": "unigram"}),
    )
    model = home / "tokenizer.model"
    model.write_bytes(
        round_scores(model.read_bytes())
    )  # as our tokenizer reads it, so that all tools give the same ids
    if kind == "llama":
        _write_llama_for_huggingface(model, home / "huggingface")


def _write_llama_for_huggingface(model: Path, folder: Path) -> None:
    """The SentencePiece BPE model as ``tokenizer.json``: a merge's rank is the score of the piece it makes."""
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
    merges.sort()
    bpe = models.BPE(
        pieces,
        [(a, b) for *_, a, b in merges],
        unk_token=processor.id_to_piece(processor.unk_id()),
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
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
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(shards), trainer)
    _write_huggingface(tokenizer, home, "<|endoftext|>")


def _write_huggingface(tokenizer: object, folder: Path, end_of_document: str) -> None:
    """Save with its end-of-document token and ``<pause>``, as ``AutoTokenizer`` and gigatoken read it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.add_special_tokens([end_of_document, PAUSE])  # type: ignore[attr-defined]
    tokenizer.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_document,
        "extra_special_tokens": [PAUSE],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("home", type=Path, help="folder to write")
    parser.add_argument("size", type=int, help="number of tokens")
    parser.add_argument("shards", nargs="+", type=Path, help="C4 shards (.json.gz) to train on")
    arguments = parser.parse_args()
    train(arguments.kind, arguments.home, arguments.size, arguments.shards)
