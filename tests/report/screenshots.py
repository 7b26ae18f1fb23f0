"""Screenshots of a report for the README: ``python -m tests.report.screenshots REPORT_FOLDER docs/images``."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from tests.report.browser import DESKTOP, PHONE, check_links, open_browser, open_page


@dataclass(frozen=True)
class Picture:
    """A part of the page, from the top of its first element to the bottom of its last."""

    parts: tuple[str, ...]
    width: int = DESKTOP
    """Of the window, in CSS pixels."""
    most: int = 1500
    """Maximum height, in CSS pixels."""
    scheme: Literal["light", "dark"] = "light"
    is_print: bool = False


PICTURES = {
    "report": Picture(("header", "#verdicts .table")),
    "report-dark": Picture(("header", "#summary"), scheme="dark"),
    "report-pauses": Picture(("#inference",), most=1400),
    "report-samples": Picture(("#samples",), most=900),
    "report-phone": Picture(("header", "#verdicts"), PHONE, most=1700),
    "report-print": Picture(("header", "#variants"), 688, most=1300, is_print=True),
}
COLORS = 256
"""Colours of a picture; few colours make a small file."""


def main(report: Path, output: Path) -> None:
    """Write one PNG file for each of :data:`PICTURES`."""
    with open_browser() as browser:
        for name, picture in PICTURES.items():
            with open_page(browser, report / "report.html", picture.width, picture.scheme) as page:
                check_links(page)
                page.emulate_media(media="print" if picture.is_print else "screen")
                boxes = [box for part in picture.parts if (box := page.locator(part).first.bounding_box())]
                top = min(box["y"] for box in boxes)
                height = min(picture.most, max(box["y"] + box["height"] for box in boxes) - top)
                clip = {"x": 0, "y": max(0, top - 12), "width": picture.width, "height": height + 12}
                shot = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True)))
                shot.quantize(COLORS, kmeans=1).save(output / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
