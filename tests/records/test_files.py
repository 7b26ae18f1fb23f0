"""Records on disk: what is written is what is read, and each damaged key is reported with the file."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.errors import UserError
from pause_megatron.records.conversion import ExportRecord, ImportRecord
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import FileRecord, line_of, read_record, read_record_lines, write_record
from pause_megatron.records.finetuning import FINETUNE_METRICS_KINDS, FinetuneRecord
from pause_megatron.records.pretraining import METRICS_KINDS, RunRecord, TrainRecord
from tests.records.damage import CHANGES, damaged, keys
from tests.records.examples import example

FILE_RECORDS = (RunRecord, ExportRecord, ImportRecord, FinetuneRecord, EvaluationRecord)
LINE_RECORDS = (*METRICS_KINDS, *FINETUNE_METRICS_KINDS)


def written(path: Path, record: FileRecord) -> dict[str, Any]:
    write_record(path, record)
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


@pytest.mark.parametrize("kind", FILE_RECORDS)
def test_a_file_reads_back_as_it_was_written(tmp_path: Path, kind: type) -> None:
    record = example(kind)
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json", kind) == record


@pytest.mark.parametrize("kind", LINE_RECORDS)
def test_a_line_reads_back_as_it_was_written(tmp_path: Path, kind: type) -> None:
    record = example(kind)
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(line_of(record)) + "\n", encoding="utf-8")
    assert read_record_lines(path, (kind,)) == [record]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", FILE_RECORDS)
def test_a_damaged_key_is_reported_with_its_file(tmp_path: Path, kind: type, change: str) -> None:
    path = tmp_path / "record.json"
    values = written(path, example(kind))
    tried = 0
    for key in keys(values, kind, change):
        path.write_text(json.dumps(damaged(values, key, change)), encoding="utf-8")
        with pytest.raises(UserError) as refused:
            read_record(path, kind)
        assert str(path) in str(refused.value)
        assert key[-1] in str(refused.value)
        assert kind.PRODUCER in str(refused.value)
        tried += 1
    assert tried >= 7


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", LINE_RECORDS)
def test_a_damaged_key_is_reported_with_its_line(tmp_path: Path, kind: type, change: str) -> None:
    path = tmp_path / "metrics.jsonl"
    values = line_of(example(kind))
    for (key,) in [("kind",), *keys(values, kind, change, nested=False)]:
        good, bad = json.dumps(values), json.dumps(damaged(values, (key,), change))
        path.write_text(f"{good}\n{bad}\n", encoding="utf-8")
        with pytest.raises(UserError) as refused:
            read_record_lines(path, (kind,))
        assert f"{path}:2" in str(refused.value)
        assert key in str(refused.value)


def test_another_format_is_refused_with_the_command_that_writes_the_file(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", example(RunRecord))
    with pytest.raises(UserError, match=r"expected format 'pause_megatron/evaluation/1', found 'pause_megatron/run/1'"):
        read_record(tmp_path / "run.json", EvaluationRecord)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "pause_megatron/run/1"', "\ufeff{}"])
def test_a_file_that_is_not_a_json_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.json"):
        read_record(path, RunRecord)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_record(tmp_path / "run.json", RunRecord)


def test_optional_keys_are_left_out_when_none() -> None:
    record = dataclasses.replace(example(TrainRecord), loss_after_pause=None, grad_norm=None)
    assert not {"loss_after_pause", "grad_norm"} & set(line_of(record))


def test_a_line_without_line_end_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = example(TrainRecord)
    path.write_text(json.dumps(line_of(record)) + '\n{"kind": "tra', encoding="utf-8")
    assert read_record_lines(path, METRICS_KINDS) == [record]


def test_an_infinite_perplexity_survives(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = dataclasses.replace(example(TrainRecord), perplexity=math.inf)
    path.write_text(json.dumps(line_of(record)) + "\n", encoding="utf-8")
    assert read_record_lines(path, METRICS_KINDS) == [record]


@pytest.mark.parametrize("line", ["[1]", '{"iteration": 1}', '{"kind": "other"}', "{", '{"kind": ["train"]}'])
def test_a_line_of_no_known_kind_is_reported(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1"):
        read_record_lines(path, METRICS_KINDS)
