"""Flags of a command: derived from the fields of its configuration class, explained by ``--help``, and parsed."""

import argparse
import ast
import inspect
import shlex
import shutil
import textwrap
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from pause_megatron import log
from pause_megatron.cli.converted_flags import converted_flags, converted_kinds, without_converted
from pause_megatron.config.checks import suggestion
from pause_megatron.config.serialize import build, flags_of_mapping, flat_fields, read_settings
from pause_megatron.errors import UserError, quoted

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
_WIDEST_METAVAR = 60
_LOG_FLAGS: dict[str, dict[str, Any]] = {
    "--quiet": {"action": "store_true", "help": "Print only warnings, errors and results."},
    "--log-file": {"metavar": "FILE", "help": "Also append each line of the log to this file, with its time and host."},
}
"""Flags of every command, which are no settings of it."""
_LONG_CHOICES = "NAME"
"""Stands for choices that are wider than :data:`_WIDEST_METAVAR`; the help text lists them."""


def parse(config_class: type, program: str, arguments: list[str]) -> Any:
    """Build a ``config_class`` from flags.

    Flags override ``--config FILE``, which overrides ``--preset NAME`` (for a class with ``PRESETS``), in any order.
    ``--help`` prints the help and exits. The first argument may be the value of the flag that the class names as its
    ``POSITIONAL``, for example "parity" in ``generate-task parity``.

    Raises :class:`UserError` for an unknown, missing or wrong flag.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{quoted(argument)}: is not UTF-8; rename the file, or correct the text") from error
    if arguments and not arguments[0].startswith("-") and (positional := _positional(config_class)):
        arguments = [positional, *arguments]
    sources = FlagParser(prog=program, add_help=False, allow_abbrev=False)
    sources.add_argument("--config")
    sources.set_defaults(preset=None)
    presets: dict[str, dict[str, Any]] = getattr(config_class, "PRESETS", {})
    if presets:
        sources.add_argument("--preset")
    found, typed = sources.parse_known_args(arguments)
    earlier: list[str] = []
    if found.config is not None:
        source = f"--config {found.config}"
        from pause_megatron.cli.earlier_run import settings_of_record  # imports msgspec, which --help does not need

        path = Path(found.config)
        settings = settings_of_record(read_settings(path, source), path, config_class, program)
        earlier = flags_of_mapping(settings, config_class, source)
    if found.preset is not None:
        if found.preset not in presets:
            raise UserError(f"--preset {found.preset}: unknown preset; {suggestion(found.preset, presets)}")
        earlier = flags_of_mapping(presets[found.preset], config_class, f"--preset {found.preset}") + earlier
    parser = flag_parser(config_class, program)
    earlier, typed = ([_own_name(word, config_class) for word in words] for words in (earlier, typed))
    for option in (flag.partition("=")[0] for flag in earlier + typed if flag.startswith("--") and " " not in flag):
        if option not in parser.options:  # argparse would report missing flags first
            close = get_close_matches(option, parser.options, n=1)
            fix = f"did you mean '{close[0]}'?" if close else f"'{program} --help' lists the flags"
            raise UserError(f"{option}: unknown flag; {fix}")
    kinds = {name: field.type for name, field in flat_fields(config_class).items()}
    typed = without_converted(config_class, earlier, typed, partial(_value_of, converted_kinds(config_class) | kinds))
    values = vars(parser.parse_args(earlier + typed)).items()
    settings = {name: value for name, value in values if name in kinds}  # without the flags of the log
    return build(config_class, {name: _joined(kinds[name], value) for name, value in settings.items()})


def take_log_flags(arguments: list[str]) -> list[str]:
    """Set up the log by ``--quiet`` and ``--log-file``, and return the other arguments.

    Raises :class:`UserError` for a flag without its value, and for a file that cannot be written.
    """
    parser = FlagParser(add_help=False, allow_abbrev=False)
    for option, settings in _LOG_FLAGS.items():
        parser.add_argument(option, **settings)
    found, others = parser.parse_known_args(arguments)
    log.configure(quiet=found.quiet, file=None if found.log_file is None else Path(found.log_file))
    return others


def _value_of(kinds: dict[str, Any], name: str, words: Sequence[str]) -> tuple[Any, list[str]]:
    """The value of the last flag ``name`` in ``words``, or None, and the other words."""
    parser = FlagParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name.replace('_', '-')}", dest="value", **_argument(kinds[name]))
    found, others = parser.parse_known_args(words)
    return found.value, others


def _positional(config_class: type) -> str | None:
    """The flag whose value may be the first argument without the flag; None if there is none."""
    name = getattr(config_class, "POSITIONAL", None)
    return name and f"--{name}"


def _joined(kind: Any, value: Any) -> Any:
    """The values of a flag as a tuple, or the only value if ``kind`` is not always a tuple."""
    if not isinstance(value, list):
        return value
    return value[0] if len(value) == 1 and get_origin(kind) is not tuple else tuple(value)


class FlagParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises :class:`UserError` instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's ``message`` as ``FLAG: problem; fix``."""
        problem, _, words = message.removeprefix("argument ").partition(": ")
        if problem == "the following arguments are required":
            raise UserError(f"{words}: required; '{self.prog} --help' explains the flags")
        if problem == "unrecognized arguments":
            raise UserError(f"{words}: not a flag; put the flag that it belongs to in front of it")
        if words.startswith("ignored explicit argument"):
            raise UserError(f"{problem}: {words.split()[-1]} is not used; give the flag without a value")
        raise UserError(f"{problem}: {words}".replace("expected one argument", "has no value; give one after the flag"))

    @property
    def options(self) -> dict[str, tuple[str, ...]]:
        """Every flag as typed, such as ``--num-layers``, and the words it allows; no words if it allows others."""
        return {option: tuple(action.choices or ()) for action in self._actions for option in action.option_strings}


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps paragraphs apart, does not break a line inside ``--num-layers``, and shows switches as ``--[no-]name``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = ("\n".join(wrap(part, width - len(indent))) for part in text.split("\n\n"))
        return textwrap.indent("\n\n".join(filled), indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return "--[no-]" + action.option_strings[0].removeprefix("--")
        return super()._format_action_invocation(action)


def flag_parser(config_class: type, program: str) -> FlagParser:
    """A parser with a flag for every field of ``config_class``, including those of nested dataclasses.

    Each nested dataclass is a group in the help. A class can group its own fields with ``GROUPS``, which maps the first
    field of a group to the group's title, for example ``{"model": "model and data", "steps": "training"}``.
    """
    parser = FlagParser(
        prog=program,
        description="\n\n".join(_paragraphs(config_class)),
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    general = parser.add_argument_group("help and settings")
    general.add_argument("-h", "--help", action="help", help="Print this help.")
    help_text = "YAML or JSON file with settings, or the run.json of an earlier run; flags override it."
    general.add_argument("--config", metavar="FILE", help=help_text)
    if presets := getattr(config_class, "PRESETS", None):
        names = f"Named settings, which --config and flags override: {', '.join(presets)}."
        general.add_argument("--preset", metavar="NAME", choices=list(presets), help=names)
    for option, settings in _LOG_FLAGS.items():
        general.add_argument(option, **settings)
    _add_flags(parser, config_class, parser.add_argument_group("flags"))
    _add_other_names(parser, config_class)
    first = _positional(config_class)
    required = [
        first.removeprefix("--").upper()
        if action.option_strings[0] == first
        else f"{action.option_strings[0]} {action.metavar}"
        for action in parser._actions
        if action.required
    ]
    width = shutil.get_terminal_size().columns - len("usage: ")
    parser.usage = "\n    ".join(wrap(" ".join([program, *required, "[FLAGS]"]), width))
    return parser


def _add_other_names(parser: FlagParser, config_class: type) -> None:
    """Add ``ALIASES`` and ``CONVERTED`` of the class, for the help and for completion; :func:`parse` replaces them."""
    aliases: dict[str, str] = getattr(config_class, "ALIASES", {})
    if not aliases:
        return
    actions = {option: action for action in parser._actions for option in action.option_strings}
    group = parser.add_argument_group("names of Megatron-LM")
    for alias, option in aliases.items():
        action = actions[option]
        group.add_argument(alias, metavar=action.metavar, choices=action.choices, help=f"The same as {option}.")
    for name, flag in converted_flags(config_class).items():
        group.add_argument(f"--{name.replace('_', '-')}", help=flag.doc, **_argument(flag.kind))


def _add_flags(parser: FlagParser, config_class: type, group: Any) -> None:
    hints, docs = typing.get_type_hints(config_class), _field_docs(config_class)
    titles = getattr(config_class, "GROUPS", {})
    for field in fields(config_class):
        kind = hints[field.name]
        if is_dataclass(kind):
            title = field.name.replace("_", " ")
            _add_flags(parser, kind, parser.add_argument_group(title, _paragraphs(kind)[0]))  # type: ignore[arg-type]
            continue
        if field.name in titles:
            group = parser.add_argument_group(titles[field.name])
        option, doc = "--" + field.name.replace("_", "-"), docs.get(field.name, "")
        help_text = f"{doc} {_default_hint(field.default, doc)}".strip().replace("%", "%%")
        arguments = _argument(kind)
        if arguments.get("metavar") == _LONG_CHOICES:
            listed = ", ".join(choice for choice in arguments["choices"] if choice)
            help_text = f"{help_text.rstrip('.')}. {_LONG_CHOICES} is one of: {listed}."
        group.add_argument(option, required=field.default is MISSING, help=help_text, **arguments)


def _argument(kind: Any) -> dict[str, Any]:
    """The arguments of ``add_argument`` for a field of type ``kind``."""
    kinds = set(get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))
    tuples = {kind for kind in kinds if get_origin(kind) is tuple}
    kinds = kinds - tuples | {get_args(kind)[0] for kind in tuples}
    if bool in kinds:
        return {"action": argparse.BooleanOptionalAction}
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    simple = [kind for kind in _METAVARS if kind in kinds]  # int before str: "10" is a number where both are allowed

    def convert(text: str) -> Any:
        if text in choices or (text == "None" and NoneType in kinds):
            return None if text == "None" else text
        if text.lower() in choices:  # Megatron-LM writes WSD
            return text.lower()
        for kind in simple:
            with suppress(ValueError):
                return kind(text)
        fix = suggestion(text, choices) if choices else f"give a value of type {metavar}"
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed; {fix}")

    metavar = "{" + ",".join(choices) + "}" if choices else "|".join(_METAVARS[kind] for kind in simple)
    if len(metavar) > _WIDEST_METAVAR:
        metavar = _LONG_CHOICES
    allowed = [*choices, None] if choices else None
    return {"type": convert, "metavar": metavar, "choices": allowed, "nargs": "*" if tuples else None}


def _field_docs(config_class: type) -> dict[str, str]:
    """Field name to the string below the field, on one line."""
    docs: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(config_class.__mro__)):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, doc in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                docs[field.target.id] = " ".join(ast.literal_eval(doc.value).split())  # type: ignore[union-attr]
    return docs


def _default_hint(value: Any, doc: str) -> str:
    """The default in parentheses; nothing if the default is empty and the help text explains it."""
    if value is MISSING:
        return "(required)"
    if value is None or value in ((), ""):
        return "" if "default" in doc else "(default: none)"
    if isinstance(value, bool):
        return f"(default: {'on' if value else 'off'})"
    return f"(default: {shlex.join(map(str, value if isinstance(value, tuple) else (value,)))})"


def _paragraphs(config_class: type) -> list[str]:
    """The docstring of a class, each paragraph on one line."""
    return [" ".join(text.split()) for text in inspect.cleandoc(config_class.__doc__ or "").split("\n\n")]


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most ``width`` characters; words such as ``--num-layers`` are not split."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _own_name(word: str, config_class: type) -> str:
    """``--num_layers=6`` as ``--num-layers=6``, and an alias as our flag; other words unchanged."""
    name, equals, value = word.partition("=")
    if not word.startswith("--") or " " in name:
        return word
    aliases: dict[str, str] = getattr(config_class, "ALIASES", {})
    name = name.replace("_", "-")
    return aliases.get(name, name) + equals + value
