"""Layout of the page in headless Chromium: first screen, charts, tables that scroll, anchors and print."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pause_megatron.config.report import ReportConfig
from pause_megatron.report.write import write_report

from .conftest import WrittenReport
from .inputs import variants, write_evaluations
from .pdf_text import page_drawings, page_texts

pytest.importorskip("playwright", reason="the package playwright is not installed")

from PIL import Image
from playwright.sync_api import Browser, Page

from .browser import CHROMIUM, DESKTOP, PHONE, open_browser, open_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

A4_WIDTH = 688
"""Width of the text on a printed page, in CSS pixels."""
CROSSED_LABELS = """() => {
  const found = [];
  for (const chart of document.querySelectorAll(".chart svg")) {
    const texts = [...chart.querySelectorAll("text")];
    const boxes = texts.map((text) => [text.textContent.trim(), text.getBoundingClientRect()]);
    for (const path of chart.querySelectorAll("g > path, use")) {
      const style = getComputedStyle(path), shape = path.getBoundingClientRect();
      if (style.stroke === "none" || path.closest("defs, clipPath")) continue;
      const matrix = path.getScreenCTM(), points = [];
      if (path.tagName === "use") points.push([shape.x + shape.width / 2, shape.y + shape.height / 2]);
      else
        for (let at = 0, all = path.getTotalLength(); at <= all; at += 0.5) {
          const { x, y } = path.getPointAtLength(at).matrixTransform(matrix);
          points.push([x, y]);
        }
      for (const [label, box] of boxes)
        if (points.some(([x, y]) => x > box.left && x < box.right && y > box.top + 2 && y < box.bottom - 2))
          found.push(`${chart.parentElement.id}: ${label}`);
    }
  }
  return found;
}"""
"""Labels of charts that a drawn line passes through; a line of text is 2 pixels higher than its letters."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def printed(browser: Browser, full_report: WrittenReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as a PDF file, printed without scripts and from a dark window."""
    path = tmp_path_factory.mktemp("print") / "report.pdf"
    page = browser.new_context(java_script_enabled=False, color_scheme="dark").new_page()
    page.goto((full_report.folder / "report.html").as_uri())
    page.pdf(path=path, format="A4")
    return path


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_line_of_a_chart_crosses_a_label(browser: Browser, full_report: WrittenReport, width: int) -> None:
    with open_page(browser, full_report.folder / "report.html", width) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert page.evaluate(CROSSED_LABELS) == []
        value = page.locator("#figure-variants-parity text").filter(has_text="83.6")
        found = []
        for shift in range(
            -80, 0, 10
        ):  # the detector finds the value when it is moved to its whisker or the dashed line
            value.evaluate(f"text => {{ text.setAttribute('transform', 'translate({shift} 0)'); }}")
            found += page.evaluate(CROSSED_LABELS)
        assert "figure-variants-parity: 83.6" in found


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (PHONE, 844)])
def test_the_first_screen_has_question_verdicts_and_main_chart(
    browser: Browser, tmp_path: Path, width: int, height: int
) -> None:
    paths = write_evaluations(tmp_path / "evaluate", variants())
    write_report(ReportConfig(evaluations=tuple(paths), output=tmp_path / "report"))
    with open_page(browser, tmp_path / "report" / "report.html", width, height=height) as page:
        assert page.locator("h1").text_content() == "Does pausing help?"
        bottoms = {part: bottom_of(page, part) for part in ("h1", ".lead", ".badges", "#summary .chart svg")}
        assert list(bottoms.values())[:3] == sorted(list(bottoms.values())[:3])
        assert bottoms[".badges"] <= height
        badges = page.locator(".badges li").all_text_contents()
        assert [badge.split() for badge in badges] == [
            ["gsm8k", "cannot", "be", "judged"],
            ["parity", "cannot", "be", "judged"],
        ]
        if width > PHONE:
            assert bottoms["#summary .chart svg"] <= height
        else:
            assert page.locator("#summary .chart").evaluate("chart => chart.getBoundingClientRect().top") <= height


def bottom_of(page: Page, selector: str) -> float:
    return float(page.locator(selector).first.evaluate("part => part.getBoundingClientRect().bottom"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_is_too_wide_shows_that_it_scrolls(
    browser: Browser, full_report: WrittenReport, scheme: str
) -> None:
    with open_page(browser, full_report.folder / "report.html", PHONE, "dark" if scheme == "dark" else "light") as page:
        box, hint = page.locator("#table-comparisons .scroll"), page.locator("#hint-comparisons")
        hint.wait_for(state="visible")
        assert hint.text_content() == "Scroll sideways to see all columns →"
        assert box.get_attribute("aria-describedby") == "hint-comparisons"
        cell = page.locator("#table-comparisons td.long").first.bounding_box()
        assert cell is not None
        assert cell["width"] >= PHONE / 2  # a column of sentences is not squeezed to one word a line
        start = shade_of(page)
        box.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
        assert abs(start - shade_of(page)) > 15  # of 255; the shade is gone at the end
        page.set_viewport_size({"width": 1440, "height": 900})
        hint.wait_for(state="hidden")
        assert box.get_attribute("aria-describedby") is None


def test_intervals_do_not_stretch_the_rows_of_a_narrow_page(browser: Browser, full_report: WrittenReport) -> None:
    """A value with its interval takes two lines, not one for each word."""
    with open_page(browser, full_report.folder / "report.html", PHONE) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        cells = page.locator("#table-settings td.number.ends")
        assert cells.count() > 10
        assert min(cells.evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().width)")) >= 110
        rows = page.locator("#table-settings tbody tr")
        assert max(rows.evaluate_all("rows => rows.map(row => row.getBoundingClientRect().height)")) < 110


def shade_of(page: Page) -> float:
    """Mean brightness of the last pixels of a table, in a row's padding, where no text is."""
    picture = Image.open(io.BytesIO(page.locator("#table-comparisons .scroll").screenshot())).convert("L")
    strip = [picture.getpixel((picture.width - 2, y)) for y in range(4, picture.height - 4)]
    return sorted(float(value) for value in strip if isinstance(value, int))[len(strip) // 2]


def test_headings_have_anchors_and_a_link_to_the_top(browser: Browser, full_report: WrittenReport) -> None:
    with open_page(browser, full_report.folder / "report.html", DESKTOP) as page:
        for heading in page.locator(".heading").all():
            target = heading.locator(".anchor").get_attribute("href")
            assert target == f"#{heading.evaluate('one => one.parentElement.id')}"
            assert heading.locator(".top").get_attribute("href") == "#top"
        for chart in page.locator(".chart").all():
            assert chart.locator("h3 .anchor").get_attribute("href") == f"#{chart.get_attribute('id')}"
        anchor = page.locator("#variants .anchor").first
        assert anchor.evaluate("one => getComputedStyle(one).opacity") == "0"
        page.locator("#variants h2").hover()
        assert anchor.evaluate("one => getComputedStyle(one).opacity") == "1"
        page.locator("#caveats .top").click()
        page.wait_for_function("scrollY === 0")


def test_a_print_has_the_folded_tables_with_repeated_heads(printed: Path) -> None:
    pages = page_texts(printed)
    text = "".join(pages)
    for cell in ("Everysettingmeasured", "rouge1", "Metricsotherthantheprimaryone", "Resultsoflaterwork"):
        assert cell in text
    head = re.compile("VariantTaskMftMinfPausesPre.{1,3}xSeedsSamplesValueDi")  # with ligatures
    assert sum(bool(head.search(one)) for one in pages) >= 2  # the table of all settings has two pages or more
    assert "Backtotop" not in text
    assert "Scrollsideways" not in text


def test_a_print_keeps_headings_with_their_content(
    browser: Browser, full_report: WrittenReport, tmp_path: Path
) -> None:
    headings = ("Verdicts", "Thevariants", "Publishednumbers", "Atequalcost", "Finetuning", "Samples", "Caveats")
    charts = {"StdPT_StdFT,M_inf0": "Whiskersare95%intervals.", "M_ft,in": "lighterisbetter", "Steps": "Lossonthe"}
    page = browser.new_page()
    page.goto((full_report.folder / "report.html").as_uri())
    for height in range(800, 1200, 40):  # in CSS pixels; on some paper, each heading would be the last line of a page
        page.pdf(path=tmp_path / "report.pdf", width="794px", height=f"{height}px")
        pages = page_texts(tmp_path / "report.pdf")
        assert not [one[-30:] for one in pages if one.endswith((*headings, "Prompt", "Target", "Answers"))], height
        for drawn, caption in charts.items():  # a chart's caption is on the page of the chart
            found = [one for one in pages if drawn in one]
            assert found
            assert all(caption in one for one in found), (height, drawn)


def test_a_print_keeps_colours_on_white_paper(printed: Path) -> None:
    drawings = "\n".join(page_drawings(printed))
    assert re.search(r"\.8353 \.3686 0 rg", drawings)  # the swatch and the bars of PausePT_PauseFT, #d55e00
    assert re.search(r"\.9922 \.9922 \.9843 rg", drawings)
    assert not re.search(r"\.0902 \.0941 \.102 rg", drawings)  # the paper of a dark window


def test_printing_unfolds_in_browsers_without_style_for_folded_parts(
    browser: Browser, full_report: WrittenReport
) -> None:
    with open_page(browser, full_report.folder / "report.html", DESKTOP) as page:
        before = page.locator("details[open]").count()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == before


def test_a_print_is_as_wide_as_the_paper(browser: Browser, full_report: WrittenReport) -> None:
    with open_page(browser, full_report.folder / "report.html", A4_WIDTH) as page:
        page.emulate_media(media="print")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= A4_WIDTH
        cut = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
        assert page.evaluate(cut) == 0
