"""``<pause>`` added to any Hugging Face fast tokenizer, which otherwise stays as it is.

``pause-megatron tokenizer`` makes a tokenizer for preprocessing, in which names of special tokens in a text are text.
This module is for models of other projects that are finetuned: their texts keep their ids.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.hub_settings import CONFIG_FILE
from pause_megatron.tokenizer.huggingface import save_tokenizer
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS, PAUSE_TOKEN, excerpt
from pause_megatron.tokenizer.token_marks import PAUSE_MARK, mark_tokens
from pause_megatron.tokenizer.tokenizer_json import add_special_token, all_ids
from pause_megatron.tokenizer.tokenizers_backend import TOKENIZER_FILE


def with_pause(tokenizer: PreTrainedTokenizerBase, flag: str) -> PreTrainedTokenizerFast:
    """Return a copy of ``tokenizer`` with ``<pause>`` after its last token; all other ids stay.

    ``<pause>`` within a text is text, as before: its token is marked (:func:`mark_tokens`). A text that is exactly
    ``<pause>`` becomes the pause. The copy has the class ``PreTrainedTokenizerFast``, because others build themselves
    anew from the vocabulary and would lose the mark.

    Raises :class:`UserError` that starts with ``flag`` for a tokenizer that is not a fast one, and for one that would
    encode or decode the texts of :data:`EDGE_CASE_TEXTS` in another way.
    """
    name = tokenizer.name_or_path
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, Path(folder))
        file, config_file = Path(folder, TOKENIZER_FILE), Path(folder, CONFIG_FILE)
        if not file.is_file():
            raise UserError(f"{flag}: {name} has no fast tokenizer ({TOKENIZER_FILE}); give another model")
        file.write_text(json.dumps(_with_marked_pause(json.loads(file.read_bytes()), tokenizer)))
        config = {**json.loads(config_file.read_bytes()), "tokenizer_class": "PreTrainedTokenizerFast"}
        config_file.write_text(json.dumps(config))
        added: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    for text in (text for text in EDGE_CASE_TEXTS if text != PAUSE_TOKEN):
        before, after = tokenizer.encode(text, verbose=False), added.encode(text, verbose=False)
        decoded = [each.decode(before, skip_special_tokens=True) for each in (tokenizer, added)]
        if before != after or decoded[0] != decoded[1]:
            raise UserError(
                f"{flag}: with {PAUSE_TOKEN}, the tokenizer of {name} would encode or decode {excerpt(text)} in another"
                " way; give another model"
            )
    return added


def _with_marked_pause(library: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    pause_id = max(all_ids(library).values()) + 1
    library = add_special_token(library, PAUSE_TOKEN, pause_id)
    return mark_tokens(library, tokenizer.backend_tokenizer.normalizer, {pause_id: PAUSE_MARK})
