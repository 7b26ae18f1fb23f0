"""Links in README.md and docs/*.md lead to files, and README's tree shows the real folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation import PAGES, README, REPOSITORY, code_blocks

TEXT = README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


def test_tree_shows_the_folders() -> None:
    tree = next(block.text for block in code_blocks(README) if block.text.startswith("pause_megatron/"))
    packages = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    assert packages == {path.parent.name for path in (REPOSITORY / "pause_megatron").glob("*/__init__.py")}
    for folder in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (REPOSITORY / folder).is_dir(), folder


def test_named_modules_exist() -> None:
    for file in re.findall(r"`([a-z_]+/[a-z_]+\.py)`", TEXT):
        assert (REPOSITORY / "pause_megatron" / file).is_file() or (REPOSITORY / file).is_file(), file
