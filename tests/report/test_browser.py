"""The page in headless Chromium, at the width of a phone and of a desktop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import WrittenReport

pytest.importorskip("playwright", reason="the package playwright is not installed")

from playwright.sync_api import Browser, Page

from .browser import CHROMIUM, DESKTOP, PHONE, check_links, open_browser, open_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(params=[(PHONE, "light"), (DESKTOP, "light"), (DESKTOP, "dark")], ids=str)
def page(browser: Browser, full_report: WrittenReport, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, scheme = request.param
    with open_page(browser, full_report.folder / "report.html", width, scheme) as page:
        yield page


def test_the_page_is_no_wider_than_the_window(page: Page) -> None:
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    narrow = page.evaluate(
        "[...document.querySelectorAll('.chart svg')].map(chart => chart.getBoundingClientRect().width)"
    )
    assert len(narrow) == 18
    assert min(narrow) >= 340  # text in the charts is readable


def test_every_link_works(page: Page) -> None:
    inner, files = check_links(page)
    assert inner > 10
    assert files == 2 * 18


def test_text_has_enough_contrast(page: Page) -> None:
    """WCAG AA: a contrast ratio of at least 4.5."""
    selectors = ["p", "td", ".name small, td small", "nav a", "figcaption", ".badge", ".hint", ".top"]
    for selector in (*selectors, ".verdict.correct", ".verdict.wrong"):
        ink = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        lighter, darker = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector


def luminance(color: str) -> float:
    """Relative luminance of a CSS colour "rgb(r, g, b)"."""
    channels = [int(channel) / 255 for channel in color.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_samples_are_filtered_by_task_and_verdict(page: Page) -> None:
    def shown() -> int:
        return page.locator(".question:visible").count()

    assert shown() == 6  # gsm8k, the first task
    page.select_option("select[name=task]", "")
    assert shown() == 32
    page.select_option("select[name=task]", "squad")
    page.select_option("select[name=kind]", "helps")
    helped = page.locator(".question:visible")
    assert 0 < helped.count() < 20
    assert page.locator(".filter output").text_content() == f"{helped.count()} of 32"
    helped.first.locator("summary").click()
    assert helped.first.locator(".answers").is_visible()
    verdicts = helped.first.locator(".answers li").all_text_contents()
    assert any("StdPT_StdFT" in verdict and "wrong" in verdict for verdict in verdicts)
    assert any("PausePT_PauseFT" in verdict and "correct" in verdict for verdict in verdicts)


def test_without_scripts_every_sample_is_visible(browser: Browser, full_report: WrittenReport) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((full_report.folder / "report.html").as_uri())
    assert page.locator(".question:visible").count() == 32
    assert not page.locator(".filter").is_visible()
