"""``<pause>`` added to any Hugging Face fast tokenizer, which otherwise stays as it is.

``pause-megatron tokenizer`` makes a tokenizer for preprocessing, in which names of special tokens in a text are text.
This module is for models of other projects that are finetuned: their texts keep their ids.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.hub_settings import CONFIG_FILE
from pause_megatron.tokenizer.huggingface import save_tokenizer
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS, PAUSE_TOKEN, excerpt
from pause_megatron.tokenizer.token_marks import PAUSE_MARK, mark_tokens
from pause_megatron.tokenizer.tokenizer_json import add_special_token, all_ids
from pause_megatron.tokenizer.tokenizers_backend import TOKENIZER_FILE


def with_pause(tokenizer: PreTrainedTokenizerBase, settings: PretrainedConfig, flag: str) -> PreTrainedTokenizerFast:
    """Return a copy of ``tokenizer`` with ``<pause>`` after its last token; all other ids stay.

    ``<pause>`` within a text is text, as before: its token is marked (:func:`mark_tokens`), and a text that is exactly
    ``<pause>`` becomes the pause. transformers builds the tokenizers of some architectures, such as Qwen2, anew from
    the vocabulary, whatever class is named, and loses the mark. There the token itself has the name :data:`PAUSE_MARK`.
    ``settings`` is the ``config.json`` of the model, by which transformers decides.

    Raises :class:`UserError` that starts with ``flag`` for a tokenizer that is not a fast one, and for one that would
    encode or decode the texts of :data:`EDGE_CASE_TEXTS` in another way.
    """
    for change in (_with_marked_pause, _with_pause_named_by_mark):
        with TemporaryDirectory() as folder:
            settings.save_pretrained(folder)
            save_tokenizer(tokenizer, Path(folder))
            if not Path(folder, TOKENIZER_FILE).is_file():
                raise UserError(f"{flag}: {tokenizer.name_or_path} has no {TOKENIZER_FILE}; give another model")
            change(Path(folder), tokenizer)
            added: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
        differing = [text for text in EDGE_CASE_TEXTS if text != PAUSE_TOKEN and _differs(tokenizer, added, text)]
        if not differing:
            return added
    raise UserError(
        f"{flag}: with {PAUSE_TOKEN}, the tokenizer of {tokenizer.name_or_path} would encode or decode"
        f" {excerpt(differing[0])} in another way; give another model"
    )


def _differs(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, text: str) -> bool:
    ids = before.encode(text, verbose=False)
    decoded = [tokenizer.decode(ids, skip_special_tokens=True) for tokenizer in (before, after)]
    return bool(ids != after.encode(text, verbose=False) or decoded[0] != decoded[1])


def _with_marked_pause(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add a marked ``<pause>`` to the files in ``folder``; the class is one that reads ``tokenizer.json`` as it is."""
    library, pause_id = _library(folder)
    library = add_special_token(library, PAUSE_TOKEN, pause_id)
    library = mark_tokens(library, tokenizer.backend_tokenizer.normalizer, {pause_id: PAUSE_MARK})
    (folder / TOKENIZER_FILE).write_text(json.dumps(library))
    config = {**json.loads((folder / CONFIG_FILE).read_bytes()), "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def _with_pause_named_by_mark(folder: Path, _: PreTrainedTokenizerBase) -> None:
    library, pause_id = _library(folder)
    (folder / TOKENIZER_FILE).write_text(json.dumps(add_special_token(library, PAUSE_MARK, pause_id)))


def _library(folder: Path) -> tuple[dict[str, Any], int]:
    """Return the content of ``tokenizer.json`` and the id after its last one."""
    library = json.loads((folder / TOKENIZER_FILE).read_bytes())
    return library, max(all_ids(library).values()) + 1
