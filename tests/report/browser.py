"""Headless Chromium for tests and screenshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PHONE, DESKTOP = 390, 1280
"""Window widths, in CSS pixels."""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the browser, and close it at the end."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_page(
    browser: Browser, file: Path, width: int, scheme: Literal["light", "dark"] = "light", height: int = 800
) -> Iterator[Page]:
    """Open ``file`` in a window of ``width``; fails at the end if the page requested other files or logged errors."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda asked: problems.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
    )
    page.goto(file.resolve().as_uri())
    yield page
    context.close()
    assert problems == []


def check_links(page: Page) -> tuple[int, int]:
    """Follow every link of ``page``; returns the number of anchors, and of embedded files."""
    links = page.evaluate("[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
    inner = [link for link in links if link.startswith("#")]
    for link in inner:
        assert page.evaluate(f"document.querySelector('{link}') !== null"), link
    files = [link for link in links if not link.startswith("#")]
    for address in files:
        size = page.evaluate(
            "address => fetch(address).then(answer => answer.text()).then(text => text.length)", address
        )
        assert size > 100
    return len(inner), len(files)
