"""Running English text out of what a computer has: manual pages, documentation, records of data sets.

Used by :mod:`prepare_text`, where real C4 is too small a sample. Paragraphs are taken out of their markup, those that
are no prose (tables, code, option lists) are left out, and each is given once.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

DOCUMENT_CHARACTERS = 2000
"""A document ends with the paragraph that takes it past this; documents of C4 have as many on average."""
_FEWEST_CHARACTERS = 200
_FEWEST_WORDS = 8
_TEXT_SHARE = 0.85

_MANUAL_PAGE = re.compile(r"\.\d\w*(\.gz)?$")
_PLAIN = (".txt", ".md", ".rst")
_HTML_PARAGRAPH = re.compile(r"<p[^>]*>(.*?)</p>", re.DOTALL)
_HTML_TAG = re.compile(r"<[^>]+>")
_BREAK = re.compile(r"<br\s*/?>")
_ROFF_BREAK = re.compile(r"^[.'](PP|P|LP|TP|IP|SH|SS|sp|br|RS|RE|Pp|Sh|Ss|It|nf|fi).*$", re.MULTILINE)
_ROFF_FONT_LINE = re.compile(r"^\.(?:[BIR]{1,2}|SM|SB) +", re.MULTILINE)
_ROFF_REQUEST = re.compile(r"^[.'].*$", re.MULTILINE)
_ROFF_FONT = re.compile(r"\\f(?:\[\w*\]|\(\w\w|\w)")
_ROFF_ESCAPE = {r"\-": "-", r"\&": "", r"\ ": " ", r"\(aq": "'", r"\(dq": '"', r"\(em": "—", r"\e": "\\"}


def prose_documents(folders: Iterable[Path], exclude: str) -> Iterator[str]:
    """Documents of about 2000 characters from the files of ``folders`` whose format is known, no paragraph twice.

    Files whose names match the pattern ``exclude`` are passed over.
    """
    seen: set[str] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and not fnmatch(path.name, exclude):
                yield from _documents(filter(_is_running_text, _paragraphs(path)), seen)


def record_documents(folders: Iterable[Path]) -> Iterator[str]:
    """Documents of about 2000 characters from the strings of at least 200 in the ``.jsonl`` files of ``folders``."""
    seen: set[str] = set()
    for path in sorted(path for folder in folders for path in folder.rglob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        strings = (text for line in lines for text in _strings(json.loads(line)))
        yield from _documents((text for text in strings if len(text) >= _FEWEST_CHARACTERS), seen)


def _documents(paragraphs: Iterable[str], seen: set[str]) -> Iterator[str]:
    document: list[str] = []
    for paragraph in paragraphs:
        if paragraph in seen:
            continue
        seen.add(paragraph)
        document.append(paragraph)
        if sum(map(len, document)) >= DOCUMENT_CHARACTERS:
            yield "\n".join(document)
            document = []
    if sum(map(len, document)) >= _FEWEST_CHARACTERS:
        yield "\n".join(document)


def _paragraphs(path: Path) -> Iterator[str]:
    """The file's paragraphs, each one line; none when the format is not known."""
    if path.suffix == ".html":
        blocks = [html.unescape(_HTML_TAG.sub("", block)) for block in _HTML_PARAGRAPH.findall(_read(path))]
    elif path.name.endswith((*_PLAIN, *(f"{suffix}.gz" for suffix in _PLAIN))):
        blocks = _plain_blocks(_read(path))
    elif _MANUAL_PAGE.search(path.name) and path.parent.name.startswith("man"):
        blocks = _plain_blocks(_without_roff(_read(path)))
    else:
        return
    for block in blocks:
        yield " ".join(block.split())


def _plain_blocks(text: str) -> list[str]:
    """What blank lines separate; every line of a text that is not wrapped."""
    blocks = re.split(r"\n\s*\n", _BREAK.sub("\n", text))
    return [
        part for block in blocks for part in (block.split("\n") if max(map(len, block.split("\n"))) > 200 else [block])
    ]


def _read(path: Path) -> str:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return content.decode()
    except (OSError, EOFError, UnicodeDecodeError):  # one page less
        return ""


def _without_roff(page: str) -> str:
    """A manual page's text with blank lines between paragraphs."""
    page = _ROFF_FONT_LINE.sub("", _ROFF_BREAK.sub("\n\n", page))
    page = _ROFF_FONT.sub("", _ROFF_REQUEST.sub("", page))
    for escape, character in _ROFF_ESCAPE.items():
        page = page.replace(escape, character)
    return page


def _is_running_text(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        text.endswith((".", "?", "!", ":", '"', "”"))
        and len(text.split()) >= _FEWEST_WORDS
        and letters >= _TEXT_SHARE * len(text)
        and "\\" not in text
    )


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
