"""Validation helpers shared by the configuration classes and the command line."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pause_megatron.errors import UserError

HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
"""Name of a repository on the Hugging Face hub: ``NAME`` or ``OWNER/NAME``."""


def require_at_least(least: int, **values: float) -> None:
    """Raise :class:`UserError` that names the flag of the first of ``values`` (field name to value) below ``least``."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def require_fraction(**values: float) -> None:
    """Raise :class:`UserError` that names the flag of the first of ``values`` outside [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 0 and below 1")


def require_positive(**values: float) -> None:
    """Raise :class:`UserError` that names the flag of the first of ``values`` that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be positive")


def require_hub_name(**values: str | None) -> None:
    """Raise :class:`UserError` that names the flag of the first of ``values`` that is no name of a repository."""
    for name, value in values.items():
        if value is not None and not HUB_NAME.fullmatch(value):
            raise UserError(f"--{name.replace('_', '-')} {value}: not a repository on the hub; write it as OWNER/NAME")


def suggestion(word: str, known: Iterable[str]) -> str:
    """A correction for a mistyped ``word``: the closest of the ``known`` words, or all of them."""
    known = list(known)
    close = get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(known)}"
