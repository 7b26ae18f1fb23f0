"""The page "Your own task in ten minutes": its files and commands follow from each other, and run at small size."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from pause_megatron.cli.main import main
from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import EXIT_DONE
from pause_megatron.experiments.grid_file import read_grid
from tests.documentation import REPOSITORY, code_blocks, our_command, shown_files
from tests.downstream.own_tasks import HARNESS_RECORDS, write_chat_model, write_records

PAGE = REPOSITORY / "docs" / "how_to" / "own_task.md"
TEXT = PAGE.read_text(encoding="utf-8")
SAVED = shown_files(PAGE)
COMMANDS = [command for block in code_blocks(PAGE) for line in block.commands if (command := our_command(line))]
SMALL = {
    "finetune": ["--steps", "2", "--batch-size", "2", "--warmup-steps", "1"],
    "evaluate": ["--limit", "2"],
    "report": [],
}
"""Flags added to a command."""


def test_the_page_shows_files_and_commands() -> None:
    assert list(SAVED) == ["capitals/train.jsonl", "capitals/test.jsonl", "capitals.yaml"]
    assert {command.name for command in COMMANDS} == {"finetune", "evaluate", "report", "lm-eval"}


def test_names_of_the_table_are_those_of_the_harness() -> None:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    for kind, metrics in re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", TEXT, re.MULTILINE):
        if kind in DEFAULT_METRIC_REGISTRY:
            named = re.findall(r"`(\w+)`", metrics)
            assert set(named) <= set(DEFAULT_METRIC_REGISTRY[kind]), kind
            assert named == DEFAULT_METRIC_REGISTRY[kind][: len(named)], kind


def test_the_commands_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in SAVED.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    write_chat_model(tmp_path / "chat").rename(_parent(tmp_path / "hf" / "small"))
    for name, folder in (("arc_easy", "arc_easy"), ("harness:gsm8k", "gsm8k")):
        write_records(tmp_path / "tasks" / folder, *HARNESS_RECORDS[name])
    for command in COMMANDS:
        if command.name in SMALL:  # lm-eval: tests/downstream/test_harness_command.py
            arguments = [command.name, *command.arguments, *SMALL[command.name]]
            assert main(arguments) == EXIT_DONE, shlex.join(arguments)
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "capitals" in report
    result = json.loads(Path("results/pause-inf10.json").read_text(encoding="utf-8"))
    assert result["chance"] == pytest.approx(1 / 3)
    assert result["samples"][0]["prompt"] == "Country: Peru\nCapital:"


def test_the_grid_finds_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in SAVED.items():
        if name.endswith(".yaml"):
            Path(name).write_text(content, encoding="utf-8")
    Path("definitions").mkdir()
    [text] = [block.text for block in code_blocks(PAGE) if "num_pauses_ft:" in block.text]
    Path("grid.yaml").write_text(text, encoding="utf-8")
    grid = read_grid(GridConfig(grid="grid.yaml", output=tmp_path / "out"))
    assert list(grid.tasks) == ["capitals", "arc_easy"]


def _parent(path: Path) -> Path:
    path.parent.mkdir()
    return path
