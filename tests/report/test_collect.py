"""Reading of result files, run folders and finetuning curves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.errors import UserError
from pause_megatron.records.files import read_json, write_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.records.generated_task import GeneratedTaskRecord
from pause_megatron.records.pretraining import METRICS_FILE
from pause_megatron.report.collect import collect, read_evaluation, read_run
from tests.records.examples import example

from .inputs import evaluation, grouped, pretraining, write_evaluations, write_finetuned, write_run


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = evaluation("gsm8k", "pausept_pauseft")
    (path,) = write_evaluations(tmp_path, [record])
    assert read_evaluation(path).record == record


def test_a_folder_contributes_all_results_in_it(tmp_path: Path) -> None:
    (first,) = write_evaluations(tmp_path / "parity", [evaluation()])
    (second,) = write_evaluations(tmp_path / "gsm8k", [evaluation("gsm8k")])
    shutil.copy(first, first.with_name(".half-written.json"))
    (tmp_path / "parity" / "notes.txt").write_text("mine")
    assert [result.source for result in collect([tmp_path], []).evaluations] == [second, first]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no \.json file; give a folder of results"):
        collect([tmp_path / "empty"], [])


def test_runs_without_pauses_come_first(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a", paused=True), write_run(tmp_path / "b")]
    assert [run.is_standard for run in collect([], folders).runs] == [True, False]


def test_a_model_that_was_not_finetuned_is_named_after_its_pretraining() -> None:
    records = [
        evaluation(variant=None, num_pauses_inf=0, pretraining=pretrained)
        for pretrained in (pretraining(paused=False), pretraining(paused=True), None)
    ]
    (task,) = grouped(*records)
    assert [measurement.setting.model for measurement in task.measurements] == ["stdpt", "pausept", "other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pause_megatron/finetune/1"}, "found 'pause_megatron/finetune/1'"),
        ({"num_samples": "many"}, "num_samples"),
        ({"primary_metric": "f1"}, "primary metric 'f1' is not in 'metrics'"),
        ({"metrics": {"exact_match": {"value": 0.5, "stderr": -0.1}}}, "contains a standard error of -0.1"),
        (
            {"samples": [{"prompt": "a", "pauses": 0, "output": "b", "target": "b", "correct": 1.5}]},
            r"contains a score of 1\.5, which cannot be; run 'pause-megatron evaluate' again",
        ),
    ],
)
def test_a_file_that_is_not_a_result_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (path,) = write_evaluations(tmp_path, [evaluation()])
    path.write_text(json.dumps(read_json(path) | change))
    with pytest.raises(UserError, match=message) as refusal:
        read_evaluation(path)
    assert str(path) in str(refusal.value)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: No such file"):
        collect([tmp_path / "absent.json"], [])
    with pytest.raises(UserError, match="absent: no such folder"):
        collect([], [tmp_path / "absent"])
    with pytest.raises(UserError, match=r"run\.json: No such file"):
        collect([], [tmp_path])


def test_after_a_resume_the_last_record_of_an_iteration_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    raw = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()[:-1]]
    run = read_run(folder)
    assert [record.iteration for record in run.train] == list(range(10, 401, 10))
    repeated = [record["loss"] for record in raw if record["kind"] == "train" and record["iteration"] == 180]
    assert len(repeated) == 2
    assert next(record.loss for record in run.train if record.iteration == 180) == repeated[-1]
    for dataset in ("validation-standard", "validation-pause"):
        iterations = [record.iteration for record in run.validation if record.dataset == dataset]
        assert iterations == list(range(50, 401, 50))


def test_steps_that_a_resumed_run_has_not_repeated_yet_do_not_count(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "run", iterations=180)).last.iteration == 180


def test_a_run_without_a_training_step_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / METRICS_FILE).write_text("")
    with pytest.raises(UserError, match="no training step yet"):
        read_run(folder)


def test_a_finetuning_curve_is_read_only_if_the_evaluated_model_is_in_its_folder(tmp_path: Path) -> None:
    record = write_finetuned(tmp_path / "model", evaluation())
    (path,) = write_evaluations(tmp_path, [record])
    assert [step.step for step in read_evaluation(path).finetuning_curve] == list(range(10, 310, 10))
    assert record.finetuning is not None
    finetuned_again = FinetuneRecord(**vars(replace(record.finetuning, final_loss=9.0)), config={})
    write_record(tmp_path / "model" / FinetuneRecord.FILE, finetuned_again)
    assert read_evaluation(path).finetuning_curve == ()


def test_results_of_data_with_other_parameters_are_refused() -> None:
    data = example(GeneratedTaskRecord)
    (ours, other_seed, hinted, longer) = (
        replace(data, parameters={"bits": bits, "hints": hints}, seed=seed)
        for bits, hints, seed in ((16, False, 0), (16, False, 1), (16, True, 0), (20, False, 0))
    )
    results = [evaluation(generated_task=one, seed=seed) for seed, one in enumerate((ours, other_seed, hinted, None))]
    (task,) = grouped(*results)
    assert task.measurements[0].seeds == 4
    with pytest.raises(UserError, match="their data of parity were generated with other parameters"):
        grouped(*results, evaluation(generated_task=longer, seed=9))
