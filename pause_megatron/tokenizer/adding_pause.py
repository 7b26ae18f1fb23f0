"""``<pause>`` added to an existing tokenizer (``pause-megatron tokenizer --from-tokenizer``).

It gets the id after the last one, so that no other id changes, and is no text: a control symbol of a SentencePiece
model, a special token of a Hugging Face tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

from pause_megatron import log
from pause_megatron.atomic import new_folder
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import tokenizer_json
from pause_megatron.tokenizer.manifest import write_manifest
from pause_megatron.tokenizer.model_file import SCORE_STEP, append_control_piece, round_scores
from pause_megatron.tokenizer.pause_tokenizer import (
    MODEL_FILE,
    PAUSE_TOKEN,
    PauseTokenizer,
    find_tokenizer_file,
    open_backend,
    read_tokenizer_file,
)
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import require_convertible
from pause_megatron.tokenizer.tokenizers_backend import CONFIG_FILE, TOKENIZER_FILE, parse_tokenizer


def add_pause(source: Path, output: Path, *, keep_scores: bool = False) -> None:
    """Write the tokenizer at ``source``, with ``<pause>`` added, and ``manifest.json`` to the folder ``output``.

    ``source`` is a SentencePiece ``.model`` file, a ``tokenizer.json`` with its ``tokenizer_config.json``, or a folder
    with either. The scores of a SentencePiece unigram model are rounded unless they are to be kept, see
    :data:`~pause_megatron.tokenizer.model_file.SCORE_STEP`; one that has ``<pause>`` is taken for that alone.

    Raises :class:`UserError` when there is no such tokenizer, when it has ``<pause>`` already, when it knows no end of
    a document, when it could not be exported to Hugging Face, and when ``output`` exists.
    """
    file = find_tokenizer_file(source)
    content = read_tokenizer_file(file)
    before = open_backend(file, content)
    unrounded = isinstance(before, SentencePieceBackend) and not (before.scores_are_rounded or keep_scores)
    has_pause = before.special_id(PAUSE_TOKEN) is not None
    if has_pause and not unrounded:
        raise UserError(f"--from-tokenizer {source}: it has a {PAUSE_TOKEN} token already; use it as it is")
    if before.eod_id is None:
        raise UserError(f"{file}: {before.no_end_of_document()}")
    if isinstance(before, SentencePieceBackend):
        require_convertible(before)  # better known now than after training
    with new_folder(output) as folder:
        if isinstance(before, SentencePieceBackend):
            model = round_scores(content) if unrounded else content
            (folder / MODEL_FILE).write_bytes(model if has_pause else append_control_piece(model, PAUSE_TOKEN))
        else:
            _write_tokenizer_json(file, content, folder, before.vocab_size)
        tokenizer = PauseTokenizer.load(folder)
        assert has_pause or (tokenizer.pause_id, tokenizer.vocab_size) == (before.vocab_size, before.vocab_size + 1)
        write_manifest(folder, tokenizer, {"from_tokenizer": str(file), "scores_rounded": unrounded})
    if unrounded:
        log.info(
            f"{output}: scores rounded to multiples of {SCORE_STEP}, so that no text can be encoded differently after "
            "the export; some texts are encoded differently than with the original, which --keep-scores avoids"
        )
    log.info(f"{output}: {file} with {PAUSE_TOKEN} as token {tokenizer.pause_id} of {tokenizer.vocab_size}")


def _write_tokenizer_json(file: Path, content: bytes, folder: Path, pause_id: int) -> None:
    changed = tokenizer_json.add_special_token(parse_tokenizer(file, content), PAUSE_TOKEN, pause_id)
    (folder / TOKENIZER_FILE).write_text(json.dumps(changed, ensure_ascii=False, indent=2), encoding="utf-8")
    config = file.with_name(CONFIG_FILE)
    if config.exists():
        (folder / CONFIG_FILE).write_bytes(config.read_bytes())
