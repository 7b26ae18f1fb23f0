"""Baked pauses: a tokenizer that ends every encoded prompt with ``<pause>``, for programs without support for pauses.

Prompts become ids in two ways, and both must end with pauses. A text is encoded with special tokens, so the
post-processor can append them. A chat is first rendered to text by the template, and then encoded without special
tokens, so the rendered text contains :data:`~pause_megatron.tokenizer.token_marks.PAUSE_MARK`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.huggingface import ids_before_text
from pause_megatron.tokenizer.pause_tokenizer import PAUSE_TOKEN, pause_names
from pause_megatron.tokenizer.token_marks import PAUSE_MARK, mark_tokens, only_pause_id, sequence

_START_MARK = "\ue000start{}\ue000"
"""Text of a token before a chat: the beginning-of-text token is number 0."""


def bake_pauses(
    tokenizer: PreTrainedTokenizerFast, num_pauses: int, flag: str = "--bake-pauses"
) -> PreTrainedTokenizerFast:
    """A copy of ``tokenizer`` that ends every prompt with ``num_pauses`` pauses; 0 makes an unchanged copy.

    - Encoding a text or a pair appends the pauses after all other special tokens, unless ``add_special_tokens=False``.
      Truncation never removes them. Padding is on the left.
    - ``apply_chat_template(..., add_generation_prompt=True)`` ends with the pauses; without a generation prompt there
      are none. The tokenizer's own chat template stays. A tokenizer without one gets one that joins the messages with
      newlines, so that a single message is encoded like its text, after the beginning-of-text token if there is one.
    - Decoding drops pauses, even if it keeps special tokens. The token of the id reads :data:`PAUSE_MARK`.
    - ``<pause>`` within a prompt or message is text. Two exceptions: a prompt that consists only of ``<pause>`` becomes
      the pause's id, and so does :data:`PAUSE_MARK` in a prompt (or in a message, with the tokenizer's own template).
      Without an own template, the same holds for the beginning-of-text token, which is not the ``bos_token`` then.

    Raises :class:`UserError` for a tokenizer without ``<pause>``, with baked pauses, with several chat templates, or
    with processing steps that would hide or remove the pauses.
    """
    flag = f"{flag} {num_pauses}"
    pause_id = only_pause_id(tokenizer.get_vocab())
    if tokenizer.get_vocab().get(pause_names(2)[0]) is not None:
        raise UserError(f"{flag}: the tokenizer has distinct pauses, which cannot be baked; leave the flag out")
    if pause_id is None:
        raise UserError(f"{flag}: the tokenizer has no {PAUSE_TOKEN} token; add it with `pause-megatron tokenizer`")
    if pause_id in tokenizer.encode(""):
        raise UserError(f"{flag}: the tokenizer already has baked pauses; give the original tokenizer")
    template, marks = tokenizer.chat_template, {pause_id: PAUSE_MARK}
    if PAUSE_MARK in tokenizer.get_vocab():
        marks = {}  # the token's own name
    if isinstance(template, dict):
        raise UserError(f"{flag}: the tokenizer has several chat templates; remove all but one")
    start = ""
    if not template:
        before_text = {index: _START_MARK.format(place) for place, index in enumerate(ids_before_text(tokenizer))}
        marks |= before_text
        start = "".join(before_text.values())
        template = _plain_chat(start, marks.values())
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        if num_pauses:
            library_file, config_file = (Path(folder) / name for name in ("tokenizer.json", "tokenizer_config.json"))
            library = json.loads(library_file.read_bytes())
            library = mark_tokens(library, tokenizer.backend_tokenizer.normalizer, marks, start=start)
            library["post_processor"] = _appending(library["post_processor"], pause_id, num_pauses)
            library_file.write_text(json.dumps(library))
            config = {**json.loads(config_file.read_bytes()), "padding_side": "left"}
            config["extra_special_tokens"] = [
                name for name in config.get("extra_special_tokens", ()) if name != PAUSE_TOKEN
            ]
            if start:
                config.pop("bos_token", None)
            config_file.write_text(json.dumps(config))
        baked: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    if num_pauses:
        pauses = f"{{% if add_generation_prompt %}}{{{{ '{PAUSE_MARK}' * {num_pauses} }}}}{{% endif %}}"
        baked.chat_template = template + pauses
        _check(baked, tokenizer, [pause_id] * num_pauses, flag)
    return baked


def _plain_chat(start: str, marks: Iterable[str]) -> str:
    without_marks = "".join(f" | replace('{mark}', '')" for mark in marks)
    return (
        start + "{% for message in messages %}{{ message['content']" + without_marks + " }}"
        "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    )


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
    return steps[0] if len(steps) == 1 else sequence("processors", *steps)


def _check(baked: PreTrainedTokenizerFast, plain: PreTrainedTokenizerFast, pauses: list[int], flag: str) -> None:
    text = f"a literal {PAUSE_TOKEN}, and a word"
    chat = [{"role": "user", "content": text}]
    try:
        messages = baked.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    except TemplateError as error:
        raise UserError(f"{flag}: the chat template fails: {error}; leave it out") from error
    if (
        baked.encode(text) != plain.encode(text, split_special_tokens=True) + pauses
        or messages[-len(pauses) :] != pauses
    ):
        raise UserError(
            f"{flag}: not supported by this tokenizer, which encodes {text!r} as "
            f"{baked.encode(text)} and as {messages} in a chat; leave it out"
        )
