"""The page in a real browser: Chromium without a window, at the width of a phone and of a desktop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from .conftest import WrittenReport

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(PHONE, "light"), (DESKTOP, "light"), (DESKTOP, "dark")], ids=str)
def page(
    browser: playwright.Browser, full_report: WrittenReport, request: pytest.FixtureRequest
) -> Iterator[playwright.Page]:
    """The report, opened; the test fails if the page has anything to complain of."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
    )
    page.goto((full_report.folder / "report.html").as_uri())
    yield page
    context.close()
    assert complaints == []


def test_the_page_is_no_wider_than_the_window(page: playwright.Page) -> None:
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    narrow = page.evaluate(
        "[...document.querySelectorAll('.chart svg')].map(chart => chart.getBoundingClientRect().width)"
    )
    assert len(narrow) == 15
    assert min(narrow) >= 340  # the letters of a chart stay readable


def test_every_link_works(page: playwright.Page) -> None:
    links = page.evaluate("[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
    inner = [link for link in links if link.startswith("#")]
    assert len(inner) > 10
    for link in inner:
        assert page.evaluate(f"document.querySelector('{link}') !== null"), link
    files = [link for link in links if not link.startswith("#")]
    assert len(files) == 30
    for address in files:
        size = page.evaluate(
            "address => fetch(address).then(answer => answer.text()).then(text => text.length)", address
        )
        assert size > 100


def test_text_stands_out_from_its_ground(page: playwright.Page) -> None:
    """WCAG's contrast of at least 4.5 for all kinds of text."""
    for selector in ("p", "td", ".name small, td small", "nav a", "figcaption", ".verdict.correct", ".verdict.wrong"):
        ink = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        lighter, darker = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector


def luminance(color: str) -> float:
    """Relative luminance of a CSS colour "rgb(r, g, b)"."""
    channels = [int(channel) / 255 for channel in color.removeprefix("rgb(").removesuffix(")").split(", ")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_samples_are_browsed_by_task_and_verdict(page: playwright.Page) -> None:
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


def test_without_scripts_every_sample_is_there(browser: playwright.Browser, full_report: WrittenReport) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((full_report.folder / "report.html").as_uri())
    assert page.locator(".question:visible").count() == 32
    assert not page.locator(".filter").is_visible()
