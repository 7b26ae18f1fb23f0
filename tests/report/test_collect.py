from __future__ import annotations

import json
from pathlib import Path

import pytest

from pause_megatron.errors import UserError
from pause_megatron.report.collect import collect, read_evaluation, read_run

from .inputs import evaluation, write_evaluation, write_finetuned, write_run


def test_an_evaluation_is_read_with_its_metrics_and_samples(tmp_path: Path) -> None:
    result = read_evaluation(write_evaluation(tmp_path, "result", evaluation("gsm8k", "pausept_pauseft")))
    assert (result.task, result.model, result.num_pauses_ft, result.num_pauses_inf) == (
        "gsm8k",
        "pausept_pauseft",
        10,
        10,
    )
    assert (result.primary.value, result.primary.stderr) == (0.83, 0.021)
    assert [sample.pauses for sample in result.samples] == [10] * 6


def test_a_folder_stands_for_the_results_in_it(tmp_path: Path) -> None:
    for name in ("parity/b", "gsm8k/a", ".parity/half-written"):
        write_evaluation(tmp_path, name, evaluation(name.partition("/")[0]))
    (tmp_path / ".parity" / "half-written.json").rename(tmp_path / "parity" / ".half-written.json")
    (tmp_path / "parity" / "notes.txt").write_text("mine")
    found = collect([tmp_path], []).evaluations
    assert [evaluation.source.relative_to(tmp_path).as_posix() for evaluation in found] == [
        "gsm8k/a.json",
        "parity/b.json",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no results of 'pause-megatron evaluate' \(\.json\) in this folder"):
        collect([tmp_path / "empty"], [])


def test_a_model_that_was_not_finetuned_goes_by_its_pretraining(tmp_path: Path) -> None:
    values = evaluation(variant=None, num_pauses_inf=0)
    assert read_evaluation(write_evaluation(tmp_path, "standard", values)).model == "stdpt"
    values["pretraining"]["pauses"] = "sequence"
    assert read_evaluation(write_evaluation(tmp_path, "paused", values)).model == "pausept"
    values["pretraining"] = None
    assert read_evaluation(write_evaluation(tmp_path, "foreign", values)).model == "other"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "pause_megatron/evaluation/1", "ta', "half-written"),
        ('{"format": "pause_megatron/finetune/1"}', "found 'pause_megatron/finetune/1'"),
        ("[1, 2]", "found 'list'"),
        (json.dumps(evaluation() | {"num_samples": "many"}), r"Expected `int`, got `str`.*num_samples"),
        (json.dumps(evaluation() | {"primary_metric": "f1"}), "'f1' is not among its metrics"),
    ],
)
def test_what_is_no_evaluation_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
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
    raw = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[:-1]]
    run = read_run(folder)
    assert [record.iteration for record in run.train] == list(range(10, 401, 10))
    repeated = [record["loss"] for record in raw if record["kind"] == "train" and record["iteration"] == 180]
    assert len(repeated) == 2
    assert next(record.loss for record in run.train if record.iteration == 180) == repeated[-1]
    for dataset in ("validation-standard", "validation-pause"):
        iterations = [record.iteration for record in run.validation if record.dataset == dataset]
        assert iterations == list(range(50, 401, 50))


def test_steps_that_a_resumed_run_has_not_reached_again_do_not_count(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "run", iterations=180)).last.iteration == 180


def test_a_run_without_a_training_step_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no training step is logged yet"):
        read_run(folder)


def test_a_finetuning_curve_is_taken_from_the_evaluated_model_alone(tmp_path: Path) -> None:
    values = evaluation()
    write_finetuned(tmp_path / "model", values)
    path = write_evaluation(tmp_path, "result", values)
    assert [step.step for step in read_evaluation(path).finetuning_curve] == list(range(10, 310, 10))
    another = values["finetuning"] | {"final_loss": 9.0}
    (tmp_path / "model" / "finetune.json").write_text(json.dumps(another))
    assert read_evaluation(path).finetuning_curve == ()
