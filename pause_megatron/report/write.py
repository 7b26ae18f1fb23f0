"""Brings a report to disk: the command behind ``pause-megatron report``.

The folder appears whole. An earlier report there is replaced file by file, the page last, so that a reader always finds
a page that is whole; files of the earlier report that the new one has no use for are removed at the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_file
from pause_megatron.config.report import ReportConfig
from pause_megatron.errors import UserError
from pause_megatron.report.cells import Cell
from pause_megatron.report.collect import collect
from pause_megatron.report.compare import TaskResult
from pause_megatron.report.document import Document, build_document
from pause_megatron.report.page import render_html, render_markdown
from pause_megatron.report.records import Collected
from pause_megatron.report.tables import Table
from pause_megatron.versions import versions

REPORT_FORMAT = "pause_megatron/report/1"


def write_report(config: ReportConfig) -> None:
    """Read the inputs and write the report into ``config.output``.

    Raises :class:`UserError` for inputs that cannot be read or compared, and for an output that is no earlier report.
    """
    earlier = _earlier_files(config.output)
    collected = collect(config.evaluations, config.pretrain)
    document = build_document(collected, title=config.title, samples_per_task=config.samples_per_task)
    files = render_files(document, collected)
    if earlier is None:
        with new_folder(config.output) as folder:
            _write_files(folder, files)
    else:
        _write_files(config.output, files)
        for name in earlier - files.keys():
            (config.output / name).unlink(missing_ok=True)
    log.info(f"report: {config.output / 'report.html'}")


def render_files(document: Document, collected: Collected) -> dict[str, bytes]:
    """Every file of the report by its path in the folder, in the order of writing."""
    files: dict[str, bytes] = {}
    for figure in document.figures:
        files[f"figures/{figure.name}.png"] = figure.picture.png
        files[f"figures/{figure.name}.svg"] = figure.picture.svg
        files[f"figures/{figure.name}.csv"] = figure.data.encode()
    names = [*files, "report.json", "report.md", "report.html"]
    values = {"format": REPORT_FORMAT, **_values(document, collected), "versions": versions(), "files": names}
    files["report.json"] = (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
    files["report.md"] = render_markdown(document).encode()
    files["report.html"] = render_html(document).encode()
    return files


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        with write_file(folder / name) as file:
            file.write(content)


def _earlier_files(output: Path) -> set[str] | None:
    """The files of the report that ``output`` holds, none for an empty folder; None when there is no such folder."""
    if not output.exists():
        return None
    if output.is_dir() and not any(output.iterdir()):
        return set()
    try:
        values = json.loads((output / "report.json").read_text(encoding="utf-8"))
        if values["format"] == REPORT_FORMAT:
            return set(values["files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"--output {output}: is there already and holds no earlier report; name another folder")


def _values(document: Document, collected: Collected) -> dict[str, Any]:
    """The report's content as plain data for programs."""
    return {
        "title": document.title,
        "summary": document.summary,
        "caveats": document.caveats,
        "tasks": [_task_values(task) for task in document.tasks],
        "tables": {table.name: _table_values(table) for table in document.tables},
        "evaluations": {str(evaluation.source): evaluation.config for evaluation in collected.evaluations},
        "pretrain": {str(run.source): {"config": run.config, "dataset": run.dataset} for run in collected.runs},
    }


def _task_values(task: TaskResult) -> dict[str, Any]:
    return {
        "task": task.name,
        "metric": task.metric,
        "chance": task.chance,
        "results": [_cell_values(task, cell) for cell in task.cells],
    }


def _cell_values(task: TaskResult, cell: Cell) -> dict[str, Any]:
    baseline = task.baseline_of(cell)
    difference = None if baseline is None else cell.minus(baseline)
    return {
        "variant": cell.setting.model,
        "num_pauses_ft": cell.setting.num_pauses_ft,
        "num_pauses_inf": cell.setting.num_pauses_inf,
        "prefix_attention": cell.setting.prefix_attention,
        "seeds": [evaluation.seed for evaluation in cell.evaluations],
        "num_samples": cell.num_samples,
        "mean": cell.mean,
        "stderr": cell.stderr,
        "deviation_over_seeds": cell.deviation,
        "difference": None if difference is None else difference.value,
        "difference_stderr": None if difference is None else difference.stderr,
        "distinguishable": None if difference is None else difference.is_distinguishable,
    }


def _table_values(table: Table) -> dict[str, Any]:
    rows = [[f"{entry.text} ({entry.note})" if entry.note else entry.text for entry in row] for row in table.rows]
    return {"columns": table.columns, "rows": rows}
