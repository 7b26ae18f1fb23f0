"""Reads the files a report is made of into ``records``: evaluation results, pretraining runs, finetuning curves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pause_megatron.errors import UserError
from pause_megatron.log import read_json_lines
from pause_megatron.report.records import (
    Collected,
    Evaluation,
    FinetuneStep,
    PretrainRun,
    TrainRecord,
    ValidationRecord,
)

EVALUATION_FORMAT = "pause_megatron/evaluation/1"
RUN_FORMAT = "pause_megatron/run/1"

Record = TypeVar("Record")


def collect(evaluations: Sequence[Path], runs: Sequence[Path]) -> Collected:
    """Read evaluation results, of a folder all JSON files in it and below, and run folders.

    Raises :class:`UserError` for a file that is missing, half-written or of another format, and a folder without any.
    """
    files = [file for path in evaluations for file in _result_files(path)]
    return Collected(
        evaluations=tuple(read_evaluation(file) for file in files), runs=tuple(read_run(path) for path in runs)
    )


def _result_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*.json") if not file.name.startswith("."))
    if not files:
        raise UserError(f"{path}: no results of 'pause-megatron evaluate' (.json) in this folder")
    return files


def read_evaluation(path: Path) -> Evaluation:
    """Read one result file, and the loss curve of the finetuned model it speaks of if that still lies there."""
    values = _read_object(path, EVALUATION_FORMAT, "a result of 'pause-megatron evaluate'")
    evaluation = _convert(values, Evaluation, path)
    if evaluation.primary_metric not in evaluation.metrics:
        raise UserError(f"{path}: the primary metric '{evaluation.primary_metric}' is not among its metrics")
    samples = tuple(
        replace(sample, prompt=sys.intern(sample.prompt), target=sys.intern(sample.target))
        for sample in evaluation.samples
    )  # hundreds of results ask the same questions: each text is kept once
    return replace(evaluation, samples=samples, source=path, finetuning_curve=_finetuning_curve(evaluation))


def read_run(folder: Path) -> PretrainRun:
    """Read one run folder: run.json and metrics.jsonl."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --output folder of 'pause-megatron pretrain'")
    run = _convert(_read_object(folder / "run.json", RUN_FORMAT, "a pretraining run"), PretrainRun, folder / "run.json")
    path = folder / "metrics.jsonl"
    train, validation = [], []
    for record in _read_metrics(path):
        if record.get("kind") == "train":
            train.append(_convert(record, TrainRecord, path))
        elif record.get("kind") == "validation":
            validation.append(_convert(record, ValidationRecord, path))
    if not train:
        raise UserError(f"{path}: no training step is logged yet; wait for the first or leave this run out")
    by_dataset = {
        name: _after_resumes([record for record in validation if record.dataset == name])
        for name in dict.fromkeys(record.dataset for record in validation)
    }
    return replace(
        run,
        source=folder,
        train=tuple(_after_resumes(train)),
        validation=tuple(record for records in by_dataset.values() for record in records),
    )


def _after_resumes(records: list[Any]) -> list[Any]:
    """The records that count: one at or before an earlier record's iteration says that the run went back there."""
    kept: list[Any] = []
    for record in records:
        while kept and kept[-1].iteration >= record.iteration:
            kept.pop()
        kept.append(record)
    return kept


def _finetuning_curve(evaluation: Evaluation) -> tuple[FinetuneStep, ...]:
    """The loss curve of the evaluated model, if its folder still holds the very model that was evaluated."""
    folder = Path(str(evaluation.config.get("model", "")))
    marker, metrics = folder / "finetune.json", folder / "metrics.jsonl"
    if evaluation.finetuning is None or not marker.is_file() or not metrics.is_file():
        return ()
    now = _read_json(marker)
    if any(now.get(key) != evaluation.finetuning.get(key) for key in ("task", "seed", "steps", "final_loss")):
        return ()
    records = [record for record in _read_metrics(metrics) if record.get("kind") == "train"]
    return tuple(_convert(record, FinetuneStep, metrics) for record in records)


def _read_object(path: Path, expected_format: str, what: str) -> dict[str, Any]:
    values = _read_json(path)
    if not isinstance(values, dict) or values.get("format") != expected_format:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise UserError(f"{path}: expected {what} (format '{expected_format}'), found '{found}'")
    return values


def _read_json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise UserError(f"{path}: not whole JSON, perhaps half-written ({error}); write it again") from error


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    try:
        return read_json_lines(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: a line is not JSON ({error})") from error


def _convert(values: dict[str, Any], record: type[Record], path: Path) -> Record:
    try:
        return msgspec.convert(values, record)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}") from error
