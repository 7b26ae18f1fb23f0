"""Renders a report as HTML, Markdown and JSON, and writes its files: the command behind ``pause-megatron report``.

A new folder appears only when it is complete. In an existing report, each file is replaced atomically, the page last,
so that a reader always finds a complete page; files that the new report does not have are removed at the end.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import pause_megatron
from pause_megatron import log
from pause_megatron.atomic import new_folder, reserved, sweep, write_file
from pause_megatron.config.report import ReportConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.errors import UserError, quoted
from pause_megatron.records.files import plain_record
from pause_megatron.report.collect import Collected, collect
from pause_megatron.report.document import Document, build_document
from pause_megatron.report.elements import MODEL_COLORS, Section, Table
from pause_megatron.report.labels import setting_label
from pause_megatron.report.measurements import Measurement, TaskResult
from pause_megatron.report.verdict_words import reasons_text, removal_outcome
from pause_megatron.report.verdicts import Comparison, Outcome, Reason, RemovalVerdict, TaskVerdict
from pause_megatron.versions import versions

REPORT_FORMAT = "pause_megatron/report/2"
EARLIER_FORMATS = ("pause_megatron/report/1",)  # of reports that are replaced like those of this version
_REPORT_FILE = re.compile(r"report\.(json|md|html)|figures/[a-z0-9-]+\.(png|svg|csv)")
SUBSCRIPTS = re.compile(r"\bM_(ft|inf)\b")


def write_report(config: ReportConfig) -> None:
    """Write the report; raises :class:`UserError` for inputs that cannot be compared and an output of another kind."""
    earlier = _earlier_files(config.output)
    collected = collect(
        config.evaluations, config.pretrain, diagnoses=config.diagnoses, reproductions=config.reproductions
    )
    document = build_document(collected, title=config.title, samples_per_task=config.samples_per_task)
    files = render_files(document, collected)
    if earlier is None:
        with new_folder(config.output) as folder:
            _write_files(folder, files)
    else:
        with reserved(config.output / "report.html"):  # two reports at once would mix their files
            for folder in (config.output, config.output / "figures"):
                sweep(folder)
            _write_files(config.output, files)
            for name in earlier - files.keys():
                (config.output / name).unlink(missing_ok=True)
    log.info(f"report: {config.output / 'report.html'}")


def _earlier_files(output: Path) -> set[str] | None:
    """File names of the report in ``output``; empty for an empty folder, None without a folder."""
    if not output.exists():
        return None
    if output.is_dir() and not any(output.iterdir()):
        return set()
    try:
        values = json.loads((output / "report.json").read_text(encoding="utf-8"))
        names = set(values["files"]) if values["format"] in (REPORT_FORMAT, *EARLIER_FORMATS) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        names = None
    if names is None:
        raise UserError(f"--output {output}: exists and is not a report; choose another folder")
    for name in names:  # a name must not lead out of the folder: the file will be removed
        if not _REPORT_FILE.fullmatch(str(name)):
            raise UserError(
                f"--output {output}: report.json lists {quoted(name)}, which is no file of a report; remove it"
            )
    if (output / "figures").is_symlink():
        raise UserError(f"--output {output}: figures is a link to another folder; choose another --output")
    return names


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        with write_file(folder / name) as file:
            file.write(content)


def render_files(document: Document, collected: Collected) -> dict[str, bytes]:
    """Render every file of the report, by its path in the folder and in the order of writing."""
    files: dict[str, bytes] = {}
    for figure in document.figures:
        files[f"figures/{figure.name}.png"] = figure.picture.png
        files[f"figures/{figure.name}.svg"] = figure.picture.svg
        files[f"figures/{figure.name}.csv"] = figure.data.encode()
    names = [*files, "report.json", "report.md", "report.html"]
    values = {"format": REPORT_FORMAT, **_values(document, collected), "versions": versions(), "files": names}
    files["report.json"] = (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
    files["report.md"] = _render("report.md", document, autoescape=False).encode()
    files["report.html"] = _render("report.html", document, autoescape=True).encode()
    return files


def _values(document: Document, collected: Collected) -> dict[str, Any]:
    """The content of report.json, with unrounded numbers."""
    return {
        "title": document.title,
        "lead": document.lead,
        "terms": document.terms,
        "details": document.details,
        "verdicts": [_verdict_values(verdict, document) for verdict in document.verdicts.tasks],
        "without_pauses": [_removal_values(verdict, document) for verdict in document.verdicts.removals],
        "caveats": document.caveats,
        "tasks": [
            {
                "task": task.name,
                "metric": task.metric,
                "chance": task.chance_level,
                "results": [_measurement_values(task, measurement) for measurement in task.measurements],
            }
            for task in document.tasks
        ],
        "sections": [_section_values(section) for section in (document.answer, *document.sections)],
        "tables": {table.name: _table_values(table) for table in (*document.tables, document.versions)},
        "figures": [
            {"name": figure.name, "title": figure.title, "caption": figure.caption, "alt": figure.alt}
            for figure in document.figures
        ],
        "samples": [asdict(question) for question in document.questions],
        "evaluations": {str(result.source): result.record.config for result in collected.evaluations},
        "diagnoses": [plain_record(one) for one in collected.diagnoses],
        "reproductions": [plain_record(record) for record in collected.reproductions],
        "pretrain": {
            str(run.source): {"config": run.record.config, "dataset": to_plain(run.record.dataset)}
            for run in collected.runs
        },
    }


def _measurement_values(task: TaskResult, measurement: Measurement) -> dict[str, Any]:
    baseline = task.baseline_of(measurement)
    return {
        "variant": measurement.setting.model,
        "pretrained_model": measurement.results[0].record.pretrained_model,
        "num_pauses_ft": measurement.setting.num_pauses_ft,
        "num_pauses_inf": measurement.setting.num_pauses_inf,
        "prefix_attention": measurement.setting.prefix_attention,
        "seeds": [result.record.seed for result in measurement.results],
        "pretraining_seeds": measurement.pretraining_seeds,
        "num_samples": measurement.num_samples,
        "mean": measurement.mean,
        "stderr": measurement.stderr,
        "interval": task.interval(measurement),
        "deviation_over_seeds": measurement.deviation,
        "difference": None if baseline is None else measurement.mean - baseline.mean,
    }


def _verdict_values(verdict: TaskVerdict, document: Document) -> dict[str, Any]:
    return {
        "task": verdict.task.name,
        "verdict": verdict.outcome,
        "bound": verdict.bound if verdict.outcome is Outcome.NO_DIFFERENCE else None,
        "reasons": _reason_values(verdict.reasons, verdict.task, document),
        "comparisons": [_comparison_values(one, document) for one in verdict.comparisons],
    }


def _comparison_values(one: Comparison, document: Document) -> dict[str, Any]:
    shown = one.is_shown and one.test is not None
    return {
        "variant": setting_label(one.measurement.setting, document.tasks),
        "baseline": setting_label(one.baseline.setting, document.tasks),
        "verdict": one.outcome,
        "bound": one.bound if one.outcome is Outcome.NO_DIFFERENCE else None,
        "difference": one.difference.value,
        "interval": one.interval if shown else None,
        "p": one.test.p_value if shown and one.test is not None else None,
        "reasons": _reason_values(one.reasons, one.task, document),
    }


def _removal_values(verdict: RemovalVerdict, document: Document) -> dict[str, Any]:
    return {
        "task": verdict.task.name,
        "model": setting_label(verdict.removal.finetuned.setting, document.tasks),
        "verdict": removal_outcome(verdict),
        "with_pauses": verdict.removal.finetuned.mean,
        "without_pauses": verdict.removal.without.mean,
        "reasons": _reason_values(verdict.reasons, verdict.task, document),
    }


def _reason_values(reasons: Iterable[Reason], task: TaskResult, document: Document) -> list[dict[str, str]]:
    return [{"obstacle": reason.obstacle, "text": reasons_text([reason], task, document.tasks)} for reason in reasons]


def _table_values(table: Table) -> dict[str, Any]:
    rows = [[f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row] for row in table.rows]
    return {"caption": table.caption, "columns": table.columns, "rows": rows}


def _section_values(section: Section) -> dict[str, Any]:
    """Heading of a section, with the names of its tables and figures."""
    return {
        "heading": section.heading,
        "tables": [table.name for table in (*section.tables, *section.folded) if table.rows],
        "figures": [figure.name for figure in section.figures],
    }


def _render(template: str, document: Document, *, autoescape: bool) -> str:
    environment = Environment(
        loader=PackageLoader("pause_megatron.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"typeset": typeset, "plain": plain, "fenced": fenced}
    return environment.get_template(template).render(
        document=document, colors=MODEL_COLORS, version=pause_megatron.__version__
    )


def typeset(text: str) -> Markup:
    """Escape ``text`` for HTML: M_ft with a subscript, line breaks after underscores but not within numbers."""
    html = SUBSCRIPTS.sub(r"<i>M</i><sub>\1</sub>", str(escape(text))).replace("</sub> ", "</sub>&nbsp;")
    return Markup(html.replace("_", "_<wbr>").replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%"))


def plain(text: str) -> str:
    """Escape ``text`` for one line, or one table cell, of Markdown."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def fenced(text: str) -> str:
    """Return ``text`` as a Markdown code block; its fence is longer than any run of backticks in ``text``."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
