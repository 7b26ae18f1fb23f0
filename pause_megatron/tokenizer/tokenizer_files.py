"""Copies of a tokenizer's files: complete ones, and the SentencePiece model of an export.

Some programs read a SentencePiece model instead of ``tokenizer.json``. llama.cpp's converter takes every
``tokenizer.model`` of a Llama model for a BPE model, and would segment texts of a unigram model in another way, without
a message. A unigram model is therefore exported as ``spiece.model``, the name of T5's, which llama.cpp does not read.
"""

import shutil
from pathlib import Path

from pause_megatron import log
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.hub_settings import write_hub_settings
from pause_megatron.tokenizer.model_file import LONGEST_PIECE, append_control_piece
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS, MODEL_FILE, PauseTokenizer, read_tokenizer_file
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.tokenizers_backend import TOKENIZER_FILE, TokenizersBackend

UNIGRAM_FILE = "spiece.model"
SENTENCEPIECE_FILES = (MODEL_FILE, UNIGRAM_FILE)


def copy_tokenizer(tokenizer: PauseTokenizer, folder: Path) -> None:
    """Write the file of ``tokenizer``, and all that it takes from other files next to it, to ``folder``.

    The copy also has what came from other files, for example an end-of-document token from ``config.json``.
    """
    is_json = tokenizer.path.suffix == ".json"
    shutil.copyfile(tokenizer.path, folder / (TOKENIZER_FILE if is_json else MODEL_FILE))
    write_hub_settings(folder, tokenizer.backend.hub)
    if is_json:
        write_sentencepiece_model(tokenizer, folder)


def write_sentencepiece_model(tokenizer: PauseTokenizer, folder: Path, *, source: Path | None = None) -> None:
    """Write the SentencePiece model of ``tokenizer`` to ``folder``: its own file, or one next to ``tokenizer.json``.

    ``source`` is another folder to look in. A model next to a ``tokenizer.json`` lacks the tokens added since, such as
    ``<pause>``. They are appended as control symbols, so that it has every id. If it still has other tokens or gives
    other ids, it is left out with a warning.
    """
    backend = tokenizer.backend
    if isinstance(backend, SentencePieceBackend):
        shutil.copyfile(tokenizer.path, folder / (MODEL_FILE if backend.is_bpe else UNIGRAM_FILE))
        return
    for name in SENTENCEPIECE_FILES:
        file = (source or tokenizer.path.parent) / name
        if file.is_file():
            try:
                model, content = _extended(file, backend)
                if any(model.encode(text) != tokenizer.encode(text) for text in EDGE_CASE_TEXTS):
                    raise UserError(f"{file}: it encodes texts differently")
            except UserError as error:
                log.warn(f"{error}; leaving it out beside {TOKENIZER_FILE}")
            else:
                (folder / (MODEL_FILE if model.is_bpe else UNIGRAM_FILE)).write_bytes(content)


def _extended(file: Path, backend: TokenizersBackend) -> tuple[SentencePieceBackend, bytes]:
    """The model in ``file`` with the tokens that ``backend`` has in addition, and its bytes."""
    content = read_tokenizer_file(file)
    model = SentencePieceBackend(file, content)
    names = {index: name for name, index in backend.ids.items()}
    differing = [piece for index, piece in enumerate(model.pieces) if names.get(index) != piece]
    added = [names.get(index, "") for index in range(model.vocab_size, backend.vocab_size)]
    differing += [name for name in added if name not in backend.special or len(name.encode()) > LONGEST_PIECE]
    if differing:
        raise UserError(f"{file}: {differing[0]!r} has another id in {TOKENIZER_FILE}")
    for name in added:
        content = append_control_piece(content, name)
    return SentencePieceBackend(file, content), content
