"""Command ``pause-megatron tokenizer``: trains a SentencePiece model, or adds ``<pause>`` to an existing tokenizer.

Training makes these choices, so that text comes back unchanged and the Hugging Face export can be checked for equality:

- The normaliser is the identity and keeps spaces and newlines.
- A newline is a token of its own, and no other token contains one. Training therefore sees lines, not documents.
- No space is put before a text (``add_dummy_prefix``), so encoding a context and a continuation separately equals
  encoding them joined, for example ``a`` and `` b``.
- Characters without a token are spelled in byte tokens: no text becomes ``<unk>``.
- Scores are rounded, see :data:`pause_megatron.tokenizer.model_file.SCORE_STEP`.
"""

import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_json
from pause_megatron.config.serialize import to_plain
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.corpus import ReadOptions, Source, find_sources
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import tokenizer_json
from pause_megatron.tokenizer.hub_settings import write_hub_settings
from pause_megatron.tokenizer.model_file import SCORE_STEP, append_control_piece, round_scores
from pause_megatron.tokenizer.pause_tokenizer import (
    FORMAT,
    MANIFEST_FILE,
    MODEL_FILE,
    PAUSE_TOKEN,
    PauseTokenizer,
    find_pauses,
    find_tokenizer_file,
    open_backend,
    pause_names,
    read_tokenizer_file,
)
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import require_convertible
from pause_megatron.tokenizer.tokenizer_files import write_sentencepiece_model
from pause_megatron.tokenizer.tokenizers_backend import TOKENIZER_FILE, parse_tokenizer
from pause_megatron.versions import versions

_REQUIRED_CHARACTERS = "\n" + "".join(sorted(set("<unk></s><pause><0x0123456789ABCDEF>")))
"""Characters that always get a token: the newline, and all characters in the names of special tokens. A text that
contains such a name can then be spelled out, which the Hugging Face export relies on."""
_TRAINER_SEPARATOR = "\t"  # SentencePiece's trainer reserves it and would skip every line that contains one
_LINE_BYTES = 1 << 20
_THREADS = 2  # fixed, because the order of sums, and so the model's bytes, depends on it
_ERRORS_ONLY = 2  # log level


def make_tokenizer(config: TokenizerConfig) -> None:
    """Write the tokenizer folder ``config.output``: train it, or add ``<pause>`` to ``config.from_tokenizer``."""
    if config.from_tokenizer is not None:
        add_pause(
            config.from_tokenizer, config.output, keep_scores=config.keep_scores, distinct_pauses=config.distinct_pauses
        )
    else:
        train_tokenizer(config)


def add_pause(source: Path, output: Path, *, keep_scores: bool = False, distinct_pauses: int = 1) -> None:
    """Write the tokenizer at ``source``, with ``<pause>`` added, and ``manifest.json`` to the folder ``output``.

    With several ``distinct_pauses``, ``<pause1>``, ``<pause2>`` and so on are added in its place, also to a tokenizer
    that has ``<pause>``, which is then unused.

    Chat templates, special tokens and a SentencePiece model next to it are kept.

    ``source`` is a file or folder as in ``--from-tokenizer``. ``<pause>`` gets the id after the last one, so all other
    ids stay the same. Scores of a SentencePiece unigram model are rounded unless ``keep_scores``. A model that already
    has ``<pause>`` is accepted only if its scores need rounding.

    Raises :class:`UserError` if ``source`` is not such a tokenizer, already has ``<pause>``, has no end-of-document
    token or cannot be exported to Hugging Face, or if ``output`` exists.
    """
    file = find_tokenizer_file(source)
    content = read_tokenizer_file(file)
    before = open_backend(file, content)
    unrounded = isinstance(before, SentencePieceBackend) and not (before.scores_are_rounded or keep_scores)
    names, present = pause_names(distinct_pauses), find_pauses(before)
    has_pause = bool(present) and not (len(present) == 1 < distinct_pauses)
    if has_pause and not (unrounded and len(present) == distinct_pauses):
        known = f"a {PAUSE_TOKEN} token" if len(present) == 1 else f"{len(present)} distinct pauses"
        raise UserError(f"--from-tokenizer {source}: already has {known}; use it as it is")
    if before.eod_id is None:
        raise UserError(f"{file}: {before.no_end_of_document()}")
    if before.hub.add_bos_token and before.hub.bos_token and not before.bos_ids:
        log.warn(f"{source}: add_bos_token has no effect, because {file.name} puts nothing before texts")
    if isinstance(before, SentencePieceBackend):
        require_convertible(before)  # fails now instead of at the export after training
    with new_folder(output) as folder:
        if isinstance(before, SentencePieceBackend):
            model = round_scores(content) if unrounded else content
            for name in () if has_pause else names:
                model = append_control_piece(model, name)
            (folder / MODEL_FILE).write_bytes(model)
        else:
            _write_tokenizer_json(file, content, folder, names, before.vocab_size)
        write_hub_settings(folder, before.hub)
        tokenizer = PauseTokenizer.load(folder)
        if not isinstance(before, SentencePieceBackend):
            write_sentencepiece_model(tokenizer, folder, source=file.parent)
        assert has_pause or tokenizer.pause_ids == range(before.vocab_size, tokenizer.vocab_size)
        _write_manifest(folder, tokenizer, {"from_tokenizer": str(file), "scores_rounded": unrounded})
    if unrounded:
        log.info(
            f"{output}: rounded scores to multiples of {SCORE_STEP}, so that the export encodes every text identically;"
            " some texts are now encoded differently than by the original (use --keep-scores to avoid that)"
        )
    start = f"; each document begins with {tokenizer.backend.bos_name}" if tokenizer.document_start else ""
    added = f"{PAUSE_TOKEN} as token {tokenizer.pause_id}"
    if tokenizer.distinct_pauses:
        added = f"{names[0]} to {names[-1]} as tokens {tokenizer.pause_id} to {tokenizer.pause_ids[-1]}"
    log.info(f"{output}: {file} with {added} of {tokenizer.vocab_size}{start}")


def _write_tokenizer_json(file: Path, content: bytes, folder: Path, names: Sequence[str], first_id: int) -> None:
    changed = parse_tokenizer(file, content)
    for pause_id, name in enumerate(names, start=first_id):
        changed = tokenizer_json.add_special_token(changed, name, pause_id)
    (folder / TOKENIZER_FILE).write_text(json.dumps(changed, ensure_ascii=False, indent=2), encoding="utf-8")


def train_tokenizer(config: TokenizerConfig) -> None:
    """Train on ``config.input`` and write ``tokenizer.model`` and ``manifest.json`` to the folder ``config.output``;
    the same text and settings give the same bytes.

    Raises :class:`UserError` if the input cannot be read, ``config.output`` exists, or ``vocab_size`` is too large or
    too small for the text.
    """
    sources = find_sources(config.input)
    with new_folder(config.output) as folder:
        started = time.monotonic()
        text = _TrainingText(sources, ReadOptions(text_key=config.text_key), config.max_training_megabytes * 1_000_000)
        (folder / MODEL_FILE).write_bytes(_train(text, config))
        tokenizer = PauseTokenizer.load(folder)
        origin = {"documents": text.documents, "characters": text.characters, "config": to_plain(config)}
        _write_manifest(folder, tokenizer, origin)
    log.info(
        f"{config.output}: {tokenizer.vocab_size} tokens from {text.documents} documents "
        f"({text.characters / 1e6:.2f} million characters) in {time.monotonic() - started:.1f} s"
    )


def _write_manifest(folder: Path, tokenizer: PauseTokenizer, origin: dict[str, Any]) -> None:
    description = {
        "format": FORMAT,
        "file": tokenizer.path.name,
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "pause_id": tokenizer.pause_id,
        **({"distinct_pauses": tokenizer.distinct_pauses} if tokenizer.distinct_pauses else {}),
        "eod_id": tokenizer.eod_id,
        "bos_ids": tokenizer.bos_ids,
    }
    write_json(folder / MANIFEST_FILE, {**description, **origin, "versions": versions()})


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
            control_symbols=list(pause_names(config.distinct_pauses)),
            required_chars=_REQUIRED_CHARACTERS,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=_LINE_BYTES,
            num_threads=_THREADS,
            minloglevel=_ERRORS_ONLY,
        )
    except RuntimeError as error:
        raise _translated(str(error), config) from error
    return round_scores(model.getvalue())


def _translated(message: str, config: TokenizerConfig) -> UserError:
    """SentencePiece's error ``message`` in terms of the command's flags."""
    if found := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        return UserError(
            f"--vocab-size {config.vocab_size}: the text supports at most {found[1]} tokens; "
            "lower it or give more text to --input"
        )
    if found := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return UserError(
            f"--vocab-size {config.vocab_size}: too small for the {found[1]} characters and byte tokens of the text; "
            "raise it or lower --character-coverage"
        )
    if "!sentences_.empty()" in message:
        return UserError(f"--input {' '.join(config.input)}: contains no text; give files with documents")
    return UserError(f"--input {' '.join(config.input)}: SentencePiece could not train on it: {message}")
