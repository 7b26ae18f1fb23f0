"""Reader of the text on each page of a PDF file that Chromium wrote; it reads no other PDF files."""

from __future__ import annotations

import re
import zlib
from pathlib import Path


def page_texts(path: Path) -> list[str]:
    """Return the text of each page in the order of drawing, without spaces, which Chromium does not always draw."""
    objects = _objects(path.read_bytes())
    pages = [content for _, content in sorted(objects.items()) if re.search(rb"/Type\s*/Page\b(?!s)", content)]
    return [_text_of(page, objects) for page in pages]


def page_drawings(path: Path) -> list[str]:
    """Return the drawing operators of each page."""
    objects = _objects(path.read_bytes())
    pages = [content for _, content in sorted(objects.items()) if re.search(rb"/Type\s*/Page\b(?!s)", content)]
    return [_drawing(page, objects) for page in pages]


def _objects(content: bytes) -> dict[int, bytes]:
    found = re.finditer(rb"(?:^|\n)(\d+) 0 obj\s*(.*?)\s*endobj", content, re.S)
    return {int(match[1]): match[2] for match in found}


def _stream(content: bytes) -> str:
    packed = content.partition(b"stream")[2].lstrip(b"\r\n")
    return zlib.decompressobj().decompress(packed).decode("latin-1")


def _drawing(page: bytes, objects: dict[int, bytes]) -> str:
    found = re.search(rb"/Contents (\d+) 0 R", page)
    assert found is not None
    return _stream(objects[int(found[1])])


def _text_of(page: bytes, objects: dict[int, bytes]) -> str:
    fonts = dict(re.findall(rb"/(F\d+) (\d+) 0 R", page))
    letters = {name.decode(): _letters(objects[int(number)], objects) for name, number in fonts.items()}
    text, known = [], {}
    for font, glyphs in re.findall(r"/(F\d+) [\d.]+ Tf|<([0-9A-Fa-f]+)>", _drawing(page, objects)):
        if font:
            known = letters[font]
        else:
            width = 4 if max(map(len, known), default=4) == 4 else 2
            text += [known.get(glyphs[at : at + width].upper(), "") for at in range(0, len(glyphs), width)]
    return re.sub(r"\s+", "", "".join(text))


def _letters(font: bytes, objects: dict[int, bytes]) -> dict[str, str]:
    """Return the text of each glyph, by its number in hexadecimal digits, from the font's table for copied text."""
    found = re.search(rb"/ToUnicode (\d+) 0 R", font)
    if found is None:
        return {}
    letters: dict[str, str] = {}
    table = _stream(objects[int(found[1])])
    for block in re.findall(r"beginbfchar(.*?)endbfchar", table, re.S):
        for glyph, text in re.findall(r"<(\w+)> <(\w+)>", block):
            letters[glyph.upper()] = bytes.fromhex(text).decode("utf-16-be")
    for block in re.findall(r"beginbfrange(.*?)endbfrange", table, re.S):
        for first, last, text in re.findall(r"<(\w+)> <(\w+)> <(\w+)>", block):
            for step in range(int(last, 16) - int(first, 16) + 1):
                letters[f"{int(first, 16) + step:0{len(first)}X}"] = chr(int(text, 16) + step)
    return letters
