"""Baked pauses: a tokenizer that ends every encoded prompt with ``<pause>``, for programs without support for pauses.

Prompts become ids in two ways, and both must end with pauses. A text is encoded with special tokens, so the
post-processor can append them. A chat is first rendered to text by the template, and then encoded without special
tokens, so the rendered text contains :data:`PAUSE_MARK`, a string that nobody types.
"""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.pause_tokenizer import PAUSE_TOKEN

PAUSE_MARK = "\ue000pause\ue000"
"""Text of one pause in a rendered chat; U+E000 is a private-use character."""
_PLAIN_CHAT = (
    "{% for message in messages %}{{ message['content'] | replace('" + PAUSE_MARK + "', '') }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)


def bake_pauses(tokenizer: PreTrainedTokenizerFast, num_pauses: int) -> PreTrainedTokenizerFast:
    """A copy of ``tokenizer`` that ends every prompt with ``num_pauses`` pauses; 0 makes an unchanged copy.

    - Encoding a text or a pair appends the pauses after all other special tokens, unless ``add_special_tokens=False``.
      Truncation never removes them. Padding is on the left.
    - ``apply_chat_template(..., add_generation_prompt=True)`` ends with the pauses; without a generation prompt there
      are none. A tokenizer without a chat template gets one that joins the messages with newlines, so that a single
      message is encoded like its text.
    - Decoding drops pauses, even if it keeps special tokens. The token of the id reads :data:`PAUSE_MARK`.
    - ``<pause>`` within a prompt or message is text. Two exceptions: a prompt that consists only of ``<pause>`` becomes
      the pause's id, and so does :data:`PAUSE_MARK` in a prompt (or in a message, with the tokenizer's own template).

    Raises :class:`UserError` for a tokenizer without ``<pause>``, with baked pauses, with several chat templates, or
    with processing steps that would hide or remove the pauses.
    """
    flag = f"--bake-pauses {num_pauses}"
    pause_id = tokenizer.get_vocab().get(PAUSE_TOKEN)
    if pause_id is None:
        raise UserError(f"{flag}: the tokenizer has no {PAUSE_TOKEN} token; add it with `pause-megatron tokenizer`")
    if pause_id in tokenizer.encode(""):
        raise UserError(f"{flag}: the tokenizer already has baked pauses; give the original tokenizer")
    template = tokenizer.chat_template or _PLAIN_CHAT
    if not isinstance(template, str):
        raise UserError(f"{flag}: the tokenizer has several chat templates; remove all but one")
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        if num_pauses:
            library_file, config_file = (Path(folder) / name for name in ("tokenizer.json", "tokenizer_config.json"))
            library = json.loads(library_file.read_bytes())
            _bake_library(library, tokenizer, pause_id, num_pauses)
            library_file.write_text(json.dumps(library))
            config_file.write_text(json.dumps({**json.loads(config_file.read_bytes()), "padding_side": "left"}))
        baked: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    if num_pauses:
        pauses = f"{{% if add_generation_prompt %}}{{{{ '{PAUSE_MARK}' * {num_pauses} }}}}{{% endif %}}"
        baked.chat_template = template + pauses
        _check(baked, tokenizer, pause_id, num_pauses)
    return baked


def _bake_library(library: dict[str, Any], tokenizer: PreTrainedTokenizerFast, pause_id: int, num_pauses: int) -> None:
    """Change ``library``, the content of ``tokenizer.json``, in place.

    Names of special tokens are text (``split_special_tokens``), but names of ordinary added tokens match in a text, so
    ``<pause>`` becomes an ordinary one. It is ``normalized``: the library matches not its name, but the normalized
    name. The new last step of the normalizer turns the complete text ``<pause>`` into the mark, so that the mark
    matches anywhere in a text, and ``<pause>`` within a longer text does not.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    name = normalizer.normalize_str(PAUSE_TOKEN) if normalizer else PAUSE_TOKEN
    marking = {"type": "Replace", "pattern": {"Regex": rf"\A{re.escape(name)}\z"}, "content": PAUSE_MARK}
    library["normalizer"] = _sequence("normalizers", library["normalizer"], marking)
    for token in library["added_tokens"]:
        if token["id"] == pause_id:
            token.update(special=False, normalized=True)
    if library["decoder"]:
        dropping = {"type": "Replace", "pattern": {"String": PAUSE_MARK}, "content": ""}
        library["decoder"] = _sequence("decoders", dropping, library["decoder"])
    library["post_processor"] = _appending(library["post_processor"], pause_id, num_pauses)


def _sequence(members: str, *steps: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "Sequence", members: [step for step in steps if step]}


def _appending(processor: dict[str, Any] | None, pause_id: int, num_pauses: int) -> dict[str, Any]:
    """Extend the last template of the post-processor; a second one could not process a pair of more than two parts."""
    steps = [processor] if processor else []
    if processor and processor["type"] == "Sequence":
        steps = list(processor["processors"])
    templates = [index for index, step in enumerate(steps) if step["type"] == "TemplateProcessing"]
    if not templates:
        first, second = ({"Sequence": {"id": name, "type_id": type_id}} for type_id, name in enumerate("AB"))
        steps.append({"type": "TemplateProcessing", "single": [first], "pair": [first, second], "special_tokens": {}})
        templates = [len(steps) - 1]
    template = steps[templates[-1]]
    steps[templates[-1]] = {
        **template,
        "single": [*template["single"], {"SpecialToken": {"id": PAUSE_TOKEN, "type_id": 0}}],
        "pair": [*template["pair"], {"SpecialToken": {"id": PAUSE_TOKEN, "type_id": 1}}],
        "special_tokens": {
            **template["special_tokens"],
            PAUSE_TOKEN: {"id": PAUSE_TOKEN, "ids": [pause_id] * num_pauses, "tokens": [PAUSE_TOKEN] * num_pauses},
        },
    }
    return steps[0] if len(steps) == 1 else _sequence("processors", *steps)


def _check(baked: PreTrainedTokenizerFast, plain: PreTrainedTokenizerFast, pause_id: int, num_pauses: int) -> None:
    text = f"a literal {PAUSE_TOKEN}, and a word"
    pauses, chat = [pause_id] * num_pauses, [{"role": "user", "content": text}]
    messages = baked.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    if baked.encode(text) != plain.encode(text) + pauses or messages[-num_pauses:] != pauses:
        raise UserError(
            f"--bake-pauses {num_pauses}: not supported by this tokenizer, which encodes {text!r} as "
            f"{baked.encode(text)} and as {messages} in a chat; leave it out"
        )
