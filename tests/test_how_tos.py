"""The tutorial and the how-to pages run as they are written, each in an empty folder.

A block of Python runs, a block of shell commands runs, and a block that the text calls `NAME` is written to that file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import REPOSITORY, CodeBlock

DOCS = REPOSITORY / "docs"
PAGES = ("how_to/own_text.md", "how_to/own_tokenizer.md", "how_to/own_model.md")
"""Pages that start from nothing."""
LATER_PARTS = "## Part 2"
"""Heading of the tutorial from which on commands need a cluster."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAMES_A_FILE = re.compile(r"as `([\w./-]+)`:$")


def run_page(text: str, page: str, folder: Path) -> int:
    """Run the blocks of a page in ``folder``; return the number of blocks."""
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "PAUSE_MEGATRON_DEVICE": "cpu",
    }
    blocks = list(_FENCE.finditer(text))
    for found in blocks:
        language, content = found.groups()
        before = text[: found.start()].rstrip().rpartition("\n\n")[2].replace("\n", " ")
        if named := _NAMES_A_FILE.search(before):
            (folder / named[1]).write_text(content, encoding="utf-8")
            continue
        if language == "python":
            command = [sys.executable, "-c", content]
        else:
            assert CodeBlock(page, language, content).commands, f"{page}: unclear what to do with\n{content}"
            command = ["bash", "-euo", "pipefail", "-c", content]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{page}:\n{content}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return len(blocks)


@pytest.mark.parametrize("page", PAGES)
def test_how_to_runs(page: str, tmp_path: Path) -> None:
    assert run_page((DOCS / page).read_text(encoding="utf-8"), page, tmp_path) >= 3


def test_tutorial_and_how_to_read_a_report_run(tmp_path: Path) -> None:
    tutorial = (DOCS / "tutorial.md").read_text(encoding="utf-8").partition(LATER_PARTS)[0]
    assert run_page(tutorial, "tutorial.md", tmp_path) >= 8
    how_to = "how_to/read_a_report.md"
    assert run_page((DOCS / how_to).read_text(encoding="utf-8"), how_to, tmp_path) >= 2
    assert "cannot be judged" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_a_failing_block_fails_the_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_page("Now divide:\n\n```python\n1 / 0\n```\n", "page.md", tmp_path)
    with pytest.raises(AssertionError, match="unknown command"):
        run_page("Now:\n\n```sh\npause-megatron pretrian\n```\n", "page.md", tmp_path)
    with pytest.raises(AssertionError, match="unclear what to do"):
        run_page("This is a list:\n\n```text\na\n```\n", "page.md", tmp_path)
