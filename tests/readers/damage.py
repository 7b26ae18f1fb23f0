"""Kinds of damage to a file: to its bytes, and to one value of the JSON in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

LATIN_1 = b"\xe9"
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 1.5, -0.5, 1e308, 2**31, 2**63, 10**40, 10**400),
    *(
        "",
        " ",
        "x",
        "0",
        "nan",
        "../outside",
        "/",
        "\0",
        "\ud83d",
        "$\\frac$",
        "{{",
        "%s",
        "é" * 300,
        "x" * 100_000,
        "a\nb\x1b[31m",
    ),
    *([], [None], [[]], [1.5, "x"], {}, {"": None}, {"x": {}}),
)
"""Values that replace another one: other types, and sizes that nothing can hold."""
NESTED = "[" * 20_000 + "]" * 20_000


class _Nested:
    """Stands for lists in lists, which ``json.dumps`` cannot write."""


def cut(content: bytes, random: Random) -> bytes:
    """Truncate, as a full disk or an interrupted copy does."""
    return content[: random.randrange(len(content))]


def flipped(content: bytes, random: Random) -> bytes:
    """Flip one bit."""
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]


def zeroed(content: bytes, random: Random) -> bytes:
    """Zero a range."""
    start = random.randrange(len(content))
    length = random.randint(1, len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def zeroed_tail(content: bytes, random: Random) -> bytes:
    """Zero the end, as a crash of a machine does."""
    start = random.randrange(len(content))
    return content[:start] + bytes(len(content) - start)


def extended(content: bytes, random: Random) -> bytes:
    """Append other bytes."""
    return content + random.choice([b"\n", b"\0" * 100, LATIN_1, random.randbytes(50)])


def replaced(content: bytes, random: Random) -> bytes:
    """Replace a few bytes by random ones."""
    place = random.randrange(len(content))
    return content[:place] + random.randbytes(8) + content[place + 8 :]


def oversized(content: bytes, random: Random) -> bytes:
    """Write an enormous or a negative number, as often near the start, where headers have sizes, as elsewhere."""
    place = random.randrange(min(len(content), random.choice([64, len(content)])))
    number = random.choice([1 << 62, (1 << 31) - 1, (1 << 63) - 1, (1 << 64) - 1, 10**12])
    return content[:place] + number.to_bytes(8, "little") + content[place + 8 :]


def encoded(content: bytes, random: Random) -> bytes:
    """Write text in another encoding."""
    place = random.randrange(len(content))
    text = content.decode("latin-1")
    choices = [LATIN_1.join((content[:place], content[place:])), b"\xef\xbb\xbf" + content, text.encode("utf-16")]
    return random.choice([*choices, text.encode("utf-32"), text.encode("cp500")])


def mistyped(values: Any, random: Random) -> None:
    """Replace a value by one of another type or size."""
    holder, key = _place(values, random)
    holder[key] = random.choice([*WRONG, _Nested()])


def without_key(values: Any, random: Random) -> None:
    """Remove a value."""
    holder, key = _place(values, random)
    del holder[key]


def with_other_key(values: Any, random: Random) -> None:
    """Add a key, or rename one."""
    holder, key = _place(values, random)
    while not isinstance(holder, dict):
        holder, key = _place(values, random)
    new = random.choice(["other", "a\nb", f"{key}s", "", "format", "__class__", "é", "x" * 1000])
    holder[new] = holder.pop(key) if random.random() < 0.5 else holder[key]


def swapped(values: Any, random: Random) -> None:
    """Exchange two values."""
    (one, first), (other, second) = _place(values, random), _place(values, random)
    one[first], other[second] = copy.deepcopy(other[second]), copy.deepcopy(one[first])


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    function.__name__: function
    for function in (cut, flipped, zeroed, zeroed_tail, extended, replaced, oversized, encoded)
}
VALUES: dict[str, Callable[[Any, Random], None]] = {
    function.__name__: function for function in (mistyped, without_key, with_other_key, swapped)
}


def damaged(content: bytes, random: Random) -> tuple[str, bytes]:
    """Name of a kind of damage, and ``content`` with it. For JSON, and lines of JSON, half of them are to values."""
    lines = _json_lines(content) if random.random() < 0.5 else None
    if lines is None:
        name = random.choice(list(BYTES))
        return name, BYTES[name](content, random)
    name = random.choice(list(VALUES))
    number = random.randrange(len(lines))
    VALUES[name](lines[number], random)
    ascii_only = random.random() < 0.9 or b"\\ud83d" in json.dumps(lines[number], default=str).encode()
    written = [json.dumps(line, ensure_ascii=ascii_only, default=_nested) for line in lines]
    return name, "\n".join([*written, ""]).replace('"<nested>"', NESTED).encode()


def _nested(value: object) -> str:
    assert isinstance(value, _Nested)
    return "<nested>"


def _json_lines(content: bytes) -> list[Any] | None:
    """Objects of a JSON file (one) or of JSON lines (each line); None for other files."""
    for texts in ([content], content.splitlines()):
        try:
            found = [json.loads(text) for text in texts]
        except ValueError:
            continue
        if found and all(isinstance(one, dict) and one for one in found):
            return found
    return None


def _place(values: Any, random: Random) -> tuple[Any, Any]:
    """A container in ``values`` and a key or an index in it, near the top as often as deep inside."""
    while True:
        key = random.choice(list(values)) if isinstance(values, dict) else random.randrange(len(values))
        inner = values[key]
        if not isinstance(inner, dict | list) or not inner or random.random() < 0.3:
            return values, key
        values = inner
