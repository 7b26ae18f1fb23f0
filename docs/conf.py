"""Sphinx settings of the documentation site; ``make docs`` builds it from docs/ and the docstrings."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
sys.path.insert(0, str(REPOSITORY))

from pause_megatron import __version__  # noqa: E402 - the checkout that this file belongs to, installed or not

project = "pause_megatron"
author = "The pause_megatron developers"
copyright = author
version = release = __version__
html_title = f"{project} {version}"
html_theme = "furo"
html_show_copyright = False
html_show_sourcelink = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
nitpicky = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

SITE_PAGES = {
    "README.md": "site/overview.md",
    "CHANGELOG.md": "site/changelog.md",
    "CONTRIBUTING.md": "site/contributing.md",
    "CITATION.cff": "site/citation.md",
    "benchmarks/RESULTS.md": "site/benchmarks.md",
    "ds_configs/README.md": "site/deepspeed_files.md",
}
"""Files outside docs/ to the pages that show them."""
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def relink(text: str, source: Path, page: Path) -> str:
    """Return ``text`` of the file ``source`` with links that work on the page ``page`` of the site.

    In a checkout, pages link to files by their path. On the site, other files that are shown have a page, and the rest
    is named without a link.
    """

    def replace(found: re.Match[str]) -> str:
        target = (source.parent / found[1]).resolve()
        if not target.exists():
            return found[0]  # Sphinx reports it
        shown = SITE_PAGES.get(str(target.relative_to(REPOSITORY)))
        if shown is None and not target.is_relative_to(DOCS):
            return "]"  # a shortcut reference without a definition is plain text
        return f"]({os.path.relpath(DOCS / shown if shown else target, page.parent)}{found[2] or ''})"

    return _LINK.sub(replace, text)


def _relink_page(app: Any, docname: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    content[0] = relink(content[0], page, page)


def _relink_included(app: Any, relative: Path, _: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(app.env.docname))
    content[0] = relink(content[0], (DOCS / relative).resolve(), page)


def setup(app: Any) -> None:
    """Register the handlers of links."""
    app.connect("source-read", _relink_page)
    app.connect("include-read", _relink_included)
