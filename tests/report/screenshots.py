"""Screenshots of a report for the README: ``python -m tests.report.screenshots REPORT_FOLDER docs/images``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.report.browser import DESKTOP, PHONE, check_links, open_browser, open_page

PICTURES = {
    "report": (DESKTOP, ("header", "#summary", "#variants .table"), 1600),
    "report-pauses": (DESKTOP, ("#inference",), 1400),
    "report-samples": (DESKTOP, ("#samples",), 900),
    "report-phone": (PHONE, ("header", "#summary", "#variants"), 1900),
}
"""Name to window width, parts of the page, and maximum height, in CSS pixels."""
COLORS = 128
"""Colours of a picture; few colours make a small file."""


def main(report: Path, output: Path) -> None:
    """Write one PNG file for each of :data:`PICTURES`."""
    with open_browser() as browser:
        for name, (width, parts, most) in PICTURES.items():
            with open_page(browser, report / "report.html", width) as page:
                check_links(page)
                boxes = [box for part in parts if (box := page.locator(part).first.bounding_box())]
                top = min(box["y"] for box in boxes)
                height = min(most, max(box["y"] + box["height"] for box in boxes) - top)
                clip = {"x": 0, "y": max(0, top - 12), "width": width, "height": height + 12}
                picture = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True)))
                picture.quantize(COLORS).save(output / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
