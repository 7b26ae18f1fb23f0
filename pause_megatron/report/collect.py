"""Reader of a report's inputs: evaluation results with their finetuning curves, and pretraining runs."""

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

from pause_megatron.errors import UserError, quoted
from pause_megatron.records.diagnosis import DiagnosisRecord
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_json, read_record, read_record_lines, record_of
from pause_megatron.records.finetuning import FINETUNE_METRICS_KINDS, FinetuneRecord, FinetuneStepRecord
from pause_megatron.records.pretraining import METRICS_FILE, METRICS_KINDS, RunRecord, TrainRecord, ValidationRecord
from pause_megatron.records.reproduction import ReproductionRecord, TextReproductionRecord

Logged = TypeVar("Logged", TrainRecord, ValidationRecord)


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One result file, and the finetuning of the model that it evaluates."""

    record: EvaluationRecord
    source: Path
    finetuning_curve: tuple[FinetuneStepRecord, ...] = ()
    """Empty if the finetuned model is no longer in its folder."""

    @property
    def lists_all_items(self) -> bool:
        """Whether the result has every test item as a sample."""
        return 0 < len(self.record.samples) == self.record.num_samples

    @property
    def is_mean_of_items(self) -> bool:
        """Whether the primary metric is the mean score of the samples."""
        scores = [sample.correct for sample in self.record.samples if sample.correct is not None]
        if len(scores) < len(self.record.samples):
            return False
        mean = statistics.fmean(scores)
        return math.isclose(mean, self.record.primary.value, abs_tol=1e-6)


@dataclass(frozen=True, kw_only=True)
class PretrainRun:
    """One run folder; losses of iterations that were repeated after a resume are left out."""

    record: RunRecord
    source: Path
    train: tuple[TrainRecord, ...]
    """Never empty."""
    validation: tuple[ValidationRecord, ...]

    @property
    def is_standard(self) -> bool:
        """Whether the training data has no pauses."""
        return self.record.dataset.strategy == "none"

    @property
    def last(self) -> TrainRecord:
        """The newest training record."""
        return self.train[-1]

    def last_validation(self, dataset: str) -> ValidationRecord | None:
        """The newest validation on ``dataset``."""
        return next((record for record in reversed(self.validation) if record.dataset == dataset), None)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """All inputs of a report."""

    evaluations: tuple[EvaluationResult, ...]
    runs: tuple[PretrainRun, ...]
    diagnoses: tuple[DiagnosisRecord, ...] = ()
    reproductions: tuple[ReproductionRecord | TextReproductionRecord, ...] = ()


def collect(
    evaluations: Sequence[Path],
    runs: Sequence[Path],
    *,
    diagnoses: Sequence[Path] = (),
    reproductions: Sequence[Path] = (),
) -> Collected:
    """Read evaluation results, or all of them in a folder and below, run folders, diagnoses and repeated experiments.

    Runs without pauses come first.

    Raises :class:`UserError` for a file that is missing or of another format, and for a folder without results.
    """
    files = [file for path in evaluations for file in _result_files(path)]
    return Collected(
        evaluations=tuple(map(read_evaluation, files)),
        runs=tuple(sorted(map(read_run, runs), key=lambda run: not run.is_standard)),
        diagnoses=tuple(map(read_diagnosis, diagnoses)),
        reproductions=tuple(map(read_reproduction, reproductions)),
    )


def _result_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*.json") if not file.name.startswith("."))
    if not files:
        raise UserError(f"{path}: has no .json file; give a folder of results of 'pause-megatron evaluate'")
    return files


def read_evaluation(path: Path) -> EvaluationResult:
    """Read one result file, and the loss curve of the evaluated model if the model is still in its folder."""
    record = read_record(path, EvaluationRecord)
    if record.primary_metric not in record.metrics:
        raise UserError(
            f"{path}: primary metric {quoted(record.primary_metric)} is not in 'metrics'; run 'pause-megatron evaluate'"
            " again"
        )
    scores = [sample.correct for sample in record.samples if sample.correct is not None]
    impossible = [f"a score of {score}" for score in scores if not 0 <= score <= 1]
    impossible += [f"a standard error of {one.stderr}" for one in record.metrics.values() if (one.stderr or 0) < 0]
    if impossible:
        raise UserError(f"{path}: contains {impossible[0]}, which cannot be; run 'pause-megatron evaluate' again")
    # Hundreds of results contain the same questions: interning keeps one copy of each text in memory.
    samples = tuple(
        replace(sample, prompt=sys.intern(sample.prompt), target=sys.intern(sample.target)) for sample in record.samples
    )
    record = replace(record, samples=samples)
    return EvaluationResult(record=record, source=path, finetuning_curve=_finetuning_curve(record))


def read_diagnosis(path: Path) -> DiagnosisRecord:
    """Read one diagnosis. Raises :class:`UserError` also if a table in it is empty, or has rows of several lengths."""
    record = read_record(path, DiagnosisRecord)
    heads = {len(shares) for one in record.attention for shares in one.heads}
    pauses = {
        len(values)
        for one in record.lens
        for values in (one.answer_share, one.answer_log_probability, one.entropy, one.top_token, one.top_share)
    }
    layers = all(one.heads for one in record.attention)
    if not (layers and len(heads) == 1 and 0 not in heads and pauses == {record.num_pauses}) or not (
        record.num_pauses and record.embedding and record.answers
    ):
        raise UserError(f"{path}: its tables are not complete; run '{DiagnosisRecord.PRODUCER}' again")
    return record


def read_reproduction(path: Path) -> ReproductionRecord | TextReproductionRecord:
    """Read one repeated experiment, on a generated task or on text."""
    values = read_json(path)
    if isinstance(values, dict) and values.get("format") == TextReproductionRecord.FORMAT:
        return record_of(values, path, TextReproductionRecord)
    return record_of(values, path, ReproductionRecord)


def _finetuning_curve(record: EvaluationRecord) -> tuple[FinetuneStepRecord, ...]:
    folder = Path(str(record.config.get("model", "")))
    marker, metrics = folder / FinetuneRecord.FILE, folder / METRICS_FILE
    try:
        if record.finetuning is None or not marker.is_file() or not metrics.is_file():
            return ()
    except OSError:  # not a path on this machine; results may come from another one
        return ()
    if read_record(marker, FinetuneRecord).summary() != record.finetuning:  # the model was finetuned again
        return ()
    steps = read_record_lines(metrics, FINETUNE_METRICS_KINDS)
    return tuple(step for step in steps if isinstance(step, FinetuneStepRecord))


def read_run(folder: Path) -> PretrainRun:
    """Read one run folder: run.json and metrics.jsonl."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --output folder of 'pause-megatron pretrain'")
    record = read_record(folder / RunRecord.FILE, RunRecord)
    logged = read_record_lines(folder / METRICS_FILE, METRICS_KINDS)
    train = _without_repeated([line for line in logged if isinstance(line, TrainRecord)])
    by_dataset: dict[str, list[ValidationRecord]] = {}
    for line in logged:
        if isinstance(line, ValidationRecord):
            by_dataset.setdefault(line.dataset, []).append(line)
    if not train:
        raise UserError(f"{folder / METRICS_FILE}: no training step yet; wait for the first one or leave this run out")
    validation = tuple(chain.from_iterable(map(_without_repeated, by_dataset.values())))
    return PretrainRun(record=record, source=folder, train=tuple(train), validation=validation)


def _without_repeated(records: list[Logged]) -> list[Logged]:
    """Drop the records that a resume made obsolete: all that an iteration no later than theirs follows."""
    kept: list[Logged] = []
    for record in records:
        while kept and kept[-1].iteration >= record.iteration:
            kept.pop()
        kept.append(record)
    return kept
