"""The page and the Markdown of a complete report."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from pause_megatron.report.write import fenced, plain, typeset

from .conftest import WrittenReport

VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Parser that checks nesting and collects ids, links, tags and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"] or ""] if "id" in attributes else []
        self.links += [attributes[name] or "" for name in ("href", "src", "xlink:href") if name in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(full_report: WrittenReport) -> Page:
    return Page(full_report.text("report.html"))


def test_the_page_has_no_external_reference(page: Page, full_report: WrittenReport) -> None:
    files = [link for link in page.links if not link.startswith("#")]
    assert len(files) == 2 * len([tag for tag, _ in page.tags if tag == "svg"])
    assert {link.partition(",")[0] for link in files} == {"data:image/svg+xml;base64", "data:text/csv;base64"}
    html = full_report.text("report.html")
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object"} == set()
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]


def test_every_link_has_a_target_and_every_id_is_unique(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)
    labelled = [attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes]
    assert labelled
    assert set(labelled) <= set(page.ids)


def test_every_image_has_a_text_alternative(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag in ("svg", "img") or attributes.get("role") == "img"]
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 18
    assert all(attributes.get("aria-label") or attributes.get("alt") for attributes in images)


def test_content_is_escaped(page: Page, full_report: WrittenReport) -> None:
    assert "Test <data> & nothing else" in page.text
    assert "is the number of <b>ones</b> in 0 0 1 0 1 1 1 0 0 1 odd? Think & answer." in page.text
    html = full_report.text("report.html")
    assert "<b>ones" not in html
    assert "<unk>" not in html


def test_every_section_is_present_and_each_table_scrolls_by_itself(page: Page) -> None:
    anchors = [
        "summary",
        "verdicts",
        "variants",
        "paper",
        "inference",
        "finetuning-pauses",
        "placements",
        "cost",
        "pretraining",
    ]
    anchors += ["finetuning", "samples", "caveats", "provenance"]
    assert [found for found in page.ids if found in anchors] == anchors
    scrolling = [attributes for tag, attributes in page.tags if tag == "div" and attributes.get("class") == "scroll"]
    assert len(scrolling) == len([tag for tag, _ in page.tags if tag == "table"])


def test_samples_show_pauses_and_every_variants_verdict(page: Page, full_report: WrittenReport) -> None:
    shown = [attributes["aria-label"] for _, attributes in page.tags if attributes.get("class") == "pauses"
             and "aria-label" in attributes]  # fmt: skip
    # 6 items of gsm8k and of parity, of which two variants pause; 20 of squad, with three settings that pause in each
    assert Counter(shown) == {
        "10 pauses, appended": 6 * 2 * 2 + 20 * 2,
        "10 pauses, prepended": 20 * 2,
        "50 pauses, appended": 20 * 2,
    }
    assert full_report.text("report.html").count('class="verdict') == 6 * 2 * 4 + 20 * 8


def test_markdown_shows_every_figure_and_the_same_table(full_report: WrittenReport) -> None:
    markdown = full_report.text("report.md")
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    assert sorted(images) == sorted(f"figures/{path.name}" for path in (full_report.folder / "figures").glob("*.png"))
    for suffix in (".csv", ".svg"):
        assert all((full_report.folder / image.replace(".png", suffix)).is_file() for image in images)
    assert re.search(
        r"^\| PausePT_PauseFT, M_ft 10 \| .* \| 83\.6 \(80\.0 to 86\.6\) \(n 500, 3 seeds, s\.d\. 0\.2\) \| .* \|$",
        markdown,
        re.M,
    )
    assert "## Caveats" in markdown


def test_page_markdown_and_json_have_the_same_content(page: Page, full_report: WrittenReport) -> None:
    values = json.loads(full_report.text("report.json"))
    texts = [values["title"], values["lead"], *values["terms"], *values["details"], *values["caveats"]]
    texts += [section["heading"] for section in values["sections"]]
    texts += [figure[key] for figure in values["figures"] for key in ("title", "caption")]
    for table in values["tables"].values():
        texts += [table["caption"], *table["columns"], *(cell for row in table["rows"] for cell in row)]
    for sample in values["samples"]:
        texts += [sample["task"], sample["prompt"], sample["target"]]
        texts += [part for answer in sample["answers"] for part in (answer["label"], answer["output"])]
    assert len(texts) > 1000
    shown, markdown = letters(page.text), letters(full_report.text("report.md"))
    assert [text for text in texts if letters(text) not in shown] == []
    assert [text for text in texts if letters(text) not in markdown] == []
    listed = {name for section in values["sections"] for name in section["tables"]}
    assert listed == values["tables"].keys() - {"versions"}
    assert [name for section in values["sections"] for name in section["figures"]] == [
        figure["name"] for figure in values["figures"]
    ]


def letters(text: str) -> str:
    """Return ``text`` without what only one format has: spaces, backslashes and underscores."""
    return re.sub(r"[\s\\_()]", "", text)


def test_markdown_tables_have_as_many_cells_as_columns(full_report: WrittenReport) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", full_report.text("report.md"), re.M)
    assert len(blocks) == 48  # 16 tables and the answers to 32 questions
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_text_is_escaped_in_markdown() -> None:
    assert plain("a|b <i> [x]\nc") == r"a\|b \<i\> \[x\] c"
    assert fenced("a\n```\nb") == "````text\na\n```\nb\n````"


def test_typeset_text_is_escaped() -> None:
    assert typeset("M_ft <b> 1 ± 2") == "<i>M</i><sub>ft</sub>&nbsp;&lt;b&gt; 1&nbsp;±&nbsp;2"
    assert typeset("StdPT_StdFT") == "StdPT_<wbr>StdFT"
