"""Renders a report as one HTML page that needs nothing else, and as Markdown that shows the figures' PNG files."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import pause_megatron
from pause_megatron.report.document import Document
from pause_megatron.report.figures import MODEL_COLORS

SUBSCRIPTS = re.compile(r"\bM_(ft|inf)\b")


def render_html(document: Document) -> str:
    """The report as a page: no network, light and dark; its one script filters the samples, which are all there without
    it.
    """
    return _render("report.html", document, autoescape=True)


def render_markdown(document: Document) -> str:
    """The report as GitHub-flavoured Markdown; figures are ``figures/NAME.png`` beside it."""
    return _render("report.md", document, autoescape=False)


def typeset(text: str) -> Markup:
    """Escape ``text`` for HTML: M_ft with its subscript, names that may break at underscores, numbers that may not."""
    html = SUBSCRIPTS.sub(r"<i>M</i><sub>\1</sub>", str(escape(text))).replace("</sub> ", "</sub>&nbsp;")
    return Markup(html.replace("_", "_<wbr>").replace(" ± ", "&nbsp;±&nbsp;"))


def plain(text: str) -> str:
    """Escape ``text`` for a line or a table's cell of Markdown."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def fenced(text: str) -> str:
    """``text`` as a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _render(template: str, document: Document, *, autoescape: bool) -> str:
    environment = Environment(
        loader=PackageLoader("pause_megatron.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"typeset": typeset, "plain": plain, "fenced": fenced}
    return environment.get_template(template).render(
        document=document, colors=MODEL_COLORS, version=pause_megatron.__version__
    )
