"""Settings in the files next to a tokenizer: special tokens, chat templates, length.

``tokenizer.json`` and ``.model`` files lack them. The rules are those of transformers' ``AutoTokenizer``; for the
end-of-document token, ``config.json`` and ``generation_config.json`` of the model come last.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pause_megatron.errors import UserError

CONFIG_FILE = "tokenizer_config.json"
_TOKENS_FILE = "special_tokens_map.json"
_MODEL_FILES = ("config.json", "generation_config.json")
_TEMPLATE_FILE, _TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
_TEMPLATE_NAME = re.compile(r"[\w.-]+")  # it becomes the name of a file in an export
_NO_LENGTH = 10**9
"""A ``model_max_length`` from here on means none; transformers writes 10**30."""


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """Settings of one tokenizer; ``None`` or empty for what its folder does not set."""

    eos_token: str | None = None
    bos_token: str | None = None
    add_bos_token: bool = False
    """Whether ``tokenizer_config.json`` asks for the beginning-of-text token; ``tokenizer.json`` decides by itself."""
    chat_template: str | dict[str, str] | None = None
    """One template, or several by name."""
    model_max_length: int | None = None
    """In tokens."""
    content: dict[str, Any] = field(default_factory=dict)
    """Content of ``tokenizer_config.json``."""

    def config(self) -> dict[str, Any]:
        """Content of a ``tokenizer_config.json`` that has all these settings, whichever file they come from."""
        config = dict(self.content)
        for key, name in (("eos_token", self.eos_token), ("bos_token", self.bos_token)):
            if name is not None and _name(config.get(key)) != name:
                config[key] = name
        if isinstance(self.chat_template, dict):
            config["chat_template"] = [{"name": name, "template": text} for name, text in self.chat_template.items()]
        elif self.chat_template is not None:
            config["chat_template"] = self.chat_template
        return config


def read_hub_settings(folder: Path, ids: Mapping[str, int]) -> HubSettings:
    """Read the files in ``folder``; ``ids`` is the vocabulary, which translates ids of ``config.json`` to tokens.

    Raises :class:`UserError` for a file that is not JSON, and for a value of another type.
    """
    content = _read_object(folder / CONFIG_FILE)
    path, tokens = folder / CONFIG_FILE, content
    if "added_tokens_decoder" not in content and (others := _read_object(folder / _TOKENS_FILE)):
        path, tokens = folder / _TOKENS_FILE, {**content, **others}
    length = content.get("model_max_length")
    if length is not None and type(length) not in (int, float):
        raise UserError(f"{folder / CONFIG_FILE}: model_max_length is {length!r}; give a number of tokens")
    if (add_bos_token := content.get("add_bos_token")) not in (None, True, False):
        raise UserError(f"{folder / CONFIG_FILE}: add_bos_token is {add_bos_token!r}; give true or false")
    return HubSettings(
        eos_token=_token(path, tokens, "eos_token") or _end_of_model(folder, ids),
        bos_token=_token(path, tokens, "bos_token"),
        add_bos_token=bool(add_bos_token),
        chat_template=_chat_template(folder, content.get("chat_template")),
        model_max_length=int(length) if length is not None and 0 < length < _NO_LENGTH else None,
        content=content,
    )


def write_hub_settings(folder: Path, settings: HubSettings) -> None:
    """Write ``tokenizer_config.json`` with all ``settings``; nothing if there are none."""
    if config := settings.config():
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _token(path: Path, tokens: Mapping[str, Any], key: str) -> str | None:
    name = _name(tokens.get(key))
    if name is None or isinstance(name, str):
        return name
    raise UserError(f"{path}: {key} is {name!r}; give the name of a token")


def _name(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _end_of_model(folder: Path, ids: Mapping[str, int]) -> str | None:
    """Name of the (first) ``eos_token_id`` of the model in ``folder``, for example GPT-2's ``<|endoftext|>``."""
    names = {index: name for name, index in ids.items()}
    for file in _MODEL_FILES:
        found = _read_object(folder / file).get("eos_token_id")
        first = found[0] if isinstance(found, list) and found else found
        if type(first) is int and first in names:
            return names[first]
    return None


def _chat_template(folder: Path, in_config: Any) -> str | dict[str, str] | None:
    """The chat template or templates; files take precedence over ``tokenizer_config.json``."""
    files = {path.stem: path for path in sorted((folder / _TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / _TEMPLATE_FILE).is_file():
        files["default"] = folder / _TEMPLATE_FILE
    if files:
        texts = {name: _read_text(path) for name, path in files.items()}
        return texts["default"] if set(texts) == {"default"} else texts
    if in_config is None or isinstance(in_config, str):
        return in_config
    try:
        named = {item["name"]: item["template"] for item in in_config}
        fits = all(_TEMPLATE_NAME.fullmatch(name) and isinstance(text, str) for name, text in named.items())
    except (TypeError, KeyError):
        fits = False
    if not fits:
        raise UserError(
            f"{folder / CONFIG_FILE}: chat_template is neither a text nor a list of named texts; fetch the file again"
        )
    return named


def _read_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if there is none."""
    text = _read_text(path) if path.is_file() else "{}"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON object; fetch the file again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; fetch the file again")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{path}: {reason}; fetch the file again") from error
