"""Train the tokenizer: a SentencePiece unigram model over C4 text (command ``pause-megatron tokenizer``).

Choices, all of which let text come back unchanged and let the Hugging Face tokenizer be proven equal:

- The normaliser is the identity and spaces are kept: SentencePiece's default (``nmt_nfkc``) folds newlines, tabs and
  runs of spaces into one space, and the tasks and prompts of this project have lines.
- A newline is a piece of its own that no other piece contains; training therefore sees lines, not documents.
- No space is put before a text (``add_dummy_prefix``), so a word is encoded alike at the start of a text and of a line,
  and encoding a context and a continuation that starts with a space equals encoding the two joined.
- Characters without a piece are spelled in byte pieces: no text becomes ``<unk>``.
- Scores are rounded, see :data:`pause_megatron.tokenizer.model_file.SCORE_STEP`.

The same text and settings give the same bytes.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator

from sentencepiece import SentencePieceTrainer

from pause_megatron import log
from pause_megatron.atomic import new_folder
from pause_megatron.config.serialize import to_plain
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.corpus import ReadOptions, Source, find_sources
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.manifest import write_manifest
from pause_megatron.tokenizer.model_file import round_scores
from pause_megatron.tokenizer.pause_tokenizer import MODEL_FILE, PAUSE_TOKEN, PauseTokenizer

_REQUIRED_CHARACTERS = "\n" + "".join(sorted(set("<unk></s><pause><0x0123456789ABCDEF>")))
"""Always pieces of their own: the newline, and what special tokens are spelled with, so that their names in a text can
be spelled out (the Hugging Face export relies on it)."""
_TRAINER_SEPARATOR = "\t"
"""SentencePiece's trainer uses the tab for itself and would leave out lines that have one."""
_LINE_BYTES = 1 << 20
_THREADS = 2  # fixed: sums, and so the model's bytes, depend on it
_QUIET = 2  # log errors only


def train_tokenizer(config: TokenizerConfig) -> None:
    """Train on ``config.input`` and write ``tokenizer.model`` and ``manifest.json`` to the folder ``config.output``.

    Raises :class:`UserError` when the input cannot be read, when ``config.output`` exists, and when ``vocab_size`` is
    too large or too small for the text.
    """
    sources = find_sources(config.input)
    with new_folder(config.output) as folder:
        started = time.monotonic()
        text = _TrainingText(sources, ReadOptions(text_key=config.text_key), config.max_training_megabytes * 1_000_000)
        (folder / MODEL_FILE).write_bytes(_train(text, config))
        tokenizer = PauseTokenizer.load(folder)
        origin = {"documents": text.documents, "characters": text.characters, "config": to_plain(config)}
        write_manifest(folder, tokenizer, origin)
    log.info(
        f"{config.output}: {tokenizer.vocab_size} tokens from {text.documents} documents "
        f"({text.characters / 1e6:.2f} million characters) in {time.monotonic() - started:.1f} s"
    )


class _TrainingText:
    """Iterates over the lines to train on, and counts the documents and characters they came from."""

    def __init__(self, sources: tuple[Source, ...], options: ReadOptions, max_characters: int) -> None:
        self._sources = sources
        self._options = options
        self._characters_per_source = max_characters // len(sources)
        self.documents = 0
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for source in self._sources:
            left = self._characters_per_source
            for document in (document for block in source.read(self._options) for document in block.texts):
                self.documents += 1
                self.characters += len(document)
                yield from document.replace(_TRAINER_SEPARATOR, " ").split("\n")
                left -= len(document)
                if left <= 0:
                    break


def _train(text: _TrainingText, config: TokenizerConfig) -> bytes:
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            control_symbols=[PAUSE_TOKEN],
            required_chars=_REQUIRED_CHARACTERS,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=_LINE_BYTES,
            num_threads=_THREADS,
            minloglevel=_QUIET,
        )
    except RuntimeError as error:
        raise _translated(str(error), config) from error
    return round_scores(model.getvalue())


def _translated(message: str, config: TokenizerConfig) -> UserError:
    """What SentencePiece's complaint means for the flags of the command."""
    if found := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        return UserError(
            f"--vocab-size {config.vocab_size}: the text supports at most {found[1]} tokens; "
            "lower it or give more text to --input"
        )
    if found := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return UserError(
            f"--vocab-size {config.vocab_size}: the characters of the text and the byte tokens alone are {found[1]}; "
            "raise it or lower --character-coverage"
        )
    if "!sentences_.empty()" in message:
        return UserError(f"--input {' '.join(config.input)}: no text in it")
    return UserError(f"SentencePiece could not train on --input {' '.join(config.input)}: {message}")
