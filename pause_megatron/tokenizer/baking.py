"""Pauses for programs that know nothing of them: a tokenizer whose encoded prompts end in ``<pause>``.

A stock pipeline, server or chat client that loads a folder with such a tokenizer pauses before it answers, without any
code of this project. It attends causally, as all of them do, which is how a pretrained model attends.

Two ways lead from a prompt to ids, and both have to end in pauses. Text is encoded with special tokens, so the
post-processor appends them. A chat is rendered to text by its template and encoded without special tokens; there the
pauses have to be in the text. They are written as :data:`PAUSE_MARK`, which no keyboard has, and a literal ``<pause>``
in a prompt or a message stays the text it is in every other export.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.pause_tokenizer import PAUSE_TOKEN

PAUSE_MARK = "\ue000pause\ue000"
"""What a chat template writes for one pause; U+E000 is for private use."""
_PLAIN_CHAT = (
    "{% for message in messages %}{{ message['content'] | replace('" + PAUSE_MARK + "', '') }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)


def bake_pauses(tokenizer: PreTrainedTokenizerFast, num_pauses: int) -> PreTrainedTokenizerFast:
    """A copy of ``tokenizer`` that ends every prompt in ``num_pauses`` pauses; 0 copies it as it is.

    - Encoding a text, alone or as a pair, appends them, behind whatever the post-processor adds already. With
      ``add_special_tokens=False`` it does not. Truncation never takes them. Padding goes to the left.
    - ``apply_chat_template(..., add_generation_prompt=True)`` ends in them, and without a generation prompt there are
      none. A tokenizer without a chat template gets one that joins the contents of the messages by newlines, so a
      single message is encoded as its text is.
    - Decoding drops pauses, whether it skips special tokens or not. The id's token reads as :data:`PAUSE_MARK`.

    Text is text still: ``<pause>`` in a prompt or in a message is encoded as by ``tokenizer``. The one exception is a
    prompt that is ``<pause>`` and nothing else, which becomes the pause's id. :data:`PAUSE_MARK` in a prompt is a
    pause; so it is in messages rendered by a template of the tokenizer's own.

    Raises :class:`UserError` for a tokenizer without ``<pause>``, one with baked pauses already, and one whose steps
    would hide or lose the pauses.
    """
    flag = f"--bake-pauses {num_pauses}"
    pause_id = tokenizer.get_vocab().get(PAUSE_TOKEN)
    if pause_id is None:
        raise UserError(f"{flag}: the tokenizer has no {PAUSE_TOKEN} token")
    if pause_id in tokenizer.encode(""):
        raise UserError(f"{flag}: the tokenizer has pauses baked in already")
    template = tokenizer.chat_template or _PLAIN_CHAT
    if not isinstance(template, str):
        raise UserError(f"{flag}: the tokenizer has several chat templates; keep the one to be used")
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        if num_pauses:
            library = _read(Path(folder) / "tokenizer.json")
            _bake_library(library, tokenizer, pause_id, num_pauses)
            _write(Path(folder) / "tokenizer.json", library)
            settings = _read(Path(folder) / "tokenizer_config.json")
            _write(Path(folder) / "tokenizer_config.json", {**settings, "padding_side": "left"})
        baked: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    if num_pauses:
        pauses = f"{{% if add_generation_prompt %}}{{{{ '{PAUSE_MARK}' * {num_pauses} }}}}{{% endif %}}"
        baked.chat_template = template + pauses
        _check(baked, tokenizer, pause_id, num_pauses)
    return baked


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _bake_library(library: dict[str, Any], tokenizer: PreTrainedTokenizerFast, pause_id: int, num_pauses: int) -> None:
    """Change ``library``, the content of ``tokenizer.json``, in place.

    A special token's name is text (``split_special_tokens``), that of an ordinary added token is not, so ``<pause>``
    becomes an ordinary one. Being ``normalized`` it is not looked for by its name, but by what the normalizer makes of
    its name, and a last step of the normalizer makes the mark of that: of the name alone, not within a longer text.
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
    """The post-processor with pauses behind what it does already.

    A template that is there is extended: a second one could not process pairs, which the first has made more than two
    parts of.
    """
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
    """Raise :class:`UserError` unless ``baked`` does on a sample what :func:`bake_pauses` promises."""
    text = f"a literal {PAUSE_TOKEN}, and a word"
    pauses, chat = [pause_id] * num_pauses, [{"role": "user", "content": text}]
    messages = baked.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    if baked.encode(text) != plain.encode(text) + pauses or messages[-num_pauses:] != pauses:
        raise UserError(
            f"--bake-pauses {num_pauses}: pauses cannot be baked into this tokenizer: "
            f"{text!r} becomes {baked.encode(text)}, and as a message {messages}"
        )
