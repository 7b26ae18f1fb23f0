"""``make docs`` builds the site without a warning, and every page is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import REPOSITORY

pytest.importorskip("myst_parser", reason="the site is built with the extra 'docs'")
DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_reached_from_the_index(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    pages = [path.relative_to(DOCS) for path in DOCS.rglob("*.md") if path.name != "index.md"]
    assert len(pages) > 25
    for page in pages:
        assert f'href="{page.with_suffix(".html")}"' in index, page


def test_links_between_pages_lead_to_files_and_headings(site: Path) -> None:
    checked = 0
    for page in site.rglob("*.html"):
        for target in re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8")):
            if re.match(r"\w+:|#", target):
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / path.partition("?")[0]
            assert file.exists(), f"{page}: {target}"
            if anchor and file.suffix == ".html":
                assert f'id="{anchor}"' in file.read_text(encoding="utf-8"), f"{page}: {target}"
            checked += 1
    assert checked > 500


def test_api_page_has_each_public_name(site: Path) -> None:
    import pause_megatron

    text = (site / "api.html").read_text(encoding="utf-8")
    for name in pause_megatron.__all__:
        assert f'id="pause_megatron.{name}"' in text, name
