import json
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.atomic import reserved
from pause_megatron.cli.main import main
from pause_megatron.config.downstream import EvaluateConfig
from pause_megatron.downstream.evaluate import evaluate, metric_values
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from pause_megatron.records.evaluation import Metric
from tests.downstream.settings import changed


@pytest.fixture
def config(model_path, parity_data, tmp_path) -> EvaluateConfig:
    return EvaluateConfig(
        model=model_path("gpt2"), task="parity", data=parity_data, output=tmp_path / "result.json", limit=6
    )


def result(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_finetune_then_evaluate_through_the_command_line(model_path, tmp_path, capsys):
    """Four records are memorised, so evaluation must give a perfect score."""
    records = [("1:", "0"), ("2:", "1"), ("3:", "0"), ("4:", "1")]
    text = "".join(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in records)
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(text)
    common = ["--task", "parity", "--data", str(tmp_path)]
    training = [
        "--num-pauses-ft",
        "4",
        "--steps",
        "60",
        "--batch-size",
        "4",
        "--warmup-steps",
        "5",
        "--learning-rate",
        "5e-3",
    ]
    tuned = ["--model", str(tmp_path / "tuned")]
    base = ["--model", str(model_path("llama"))]
    assert main(["finetune", *base, *common, *training, "--output", str(tmp_path / "tuned")]) == EXIT_DONE
    assert main(["evaluate", *tuned, *common, "--output", str(tmp_path / "tuned.json")]) == EXIT_DONE
    tuned_result = result(tmp_path / "tuned.json")
    assert tuned_result["metrics"]["exact_match"]["value"] == 1.0
    assert tuned_result["metrics"]["exact_match"]["stderr"] == 0.0
    expected = {
        "format": "pause_megatron/evaluation/1",
        "task": "parity",
        "variant": "stdpt_pauseft",
        "num_pauses_ft": 4,
        "num_pauses_inf": 4,
        "prefix_attention": "bidirectional",
        "seed": 0,
        "primary_metric": "exact_match",
        "num_samples": 4,
    }
    assert expected.items() <= tuned_result.items()
    assert tuned_result["samples"] == [
        {"prompt": question, "pauses": 4, "output": answer, "target": answer, "correct": 1.0}
        for question, answer in records
    ]
    assert tuned_result["finetuning"]["steps"] == 60
    assert "config" not in tuned_result["finetuning"]
    assert main(["generate", *tuned, "--prompt", "2:", "--max-new-tokens", "4"]) == EXIT_DONE
    assert capsys.readouterr().out == "1\n"


def test_a_model_that_is_not_finetuned_is_evaluated_as_it_was_pretrained(config):
    evaluate(config)
    found = result(config.output)
    assert (found["num_pauses_ft"], found["num_pauses_inf"], found["prefix_attention"]) == (None, 0, "causal")
    assert (found["variant"], found["seed"], found["finetuning"], found["pretraining"]) == (None, None, None, None)
    assert found["num_samples"] == len(found["samples"]) == 6


def test_parameters_of_generated_data_are_recorded(config, parity_data):
    evaluate(config)
    recorded = result(config.output)["generated_task"]
    assert recorded == result(parity_data / "generated_task.json")
    assert recorded["parameters"]["bits"] == 16


def test_flags_override_finetuning(config):
    evaluate(changed(config, num_pauses_inf=2, prefix_attention="bidirectional"))
    found = result(config.output)
    assert (found["num_pauses_inf"], found["prefix_attention"]) == (2, "bidirectional")
    assert {sample["pauses"] for sample in found["samples"]} == {2}


def test_several_numbers_of_pauses_give_the_results_of_separate_evaluations(config, tmp_path):
    evaluate(changed(config, num_pauses_inf=(0, 3, 10), output=tmp_path / "m{num_pauses_inf}.json"))
    together = [result(tmp_path / f"m{number}.json") for number in (0, 3, 10)]
    for number in (0, 3, 10):
        (tmp_path / f"m{number}.json").unlink()
        evaluate(changed(config, num_pauses_inf=number, output=tmp_path / f"m{number}.json"))
    separate = [result(tmp_path / f"m{number}.json") for number in (0, 3, 10)]
    for found in (*together, *separate):
        assert found.pop("seconds") >= 0  # rounded
    assert together == separate
    assert [found["config"]["num_pauses_inf"] for found in together] == [0, 3, 10]
    assert len({tuple(sample["output"] for sample in found["samples"]) for found in together}) > 1


def test_results_before_one_that_fails_are_kept(config, tmp_path):
    with pytest.raises(UserError, match="no room for the prompt: 64 pauses"):
        evaluate(changed(config, num_pauses_inf=(2, 64), output=tmp_path / "m{num_pauses_inf}.json"))
    assert [path.name for path in tmp_path.glob("m*.json")] == ["m2.json"]


def test_one_existing_result_of_several_is_refused_before_the_model_is_loaded(config, tmp_path):
    (tmp_path / "m2.json").write_text("mine")
    several = changed(config, num_pauses_inf=(0, 2), output=tmp_path / "m{num_pauses_inf}.json")
    with pytest.raises(UserError, match=r"--output .*m2.json: exists already"):
        evaluate(replace(several, model=tmp_path / "absent"))
    assert not (tmp_path / "m0.json").exists()


def test_score_is_the_mean_of_the_samples(config):
    evaluate(config)
    found = result(config.output)
    correct = [float(sample["output"] == sample["target"]) for sample in found["samples"]]
    assert [sample["correct"] for sample in found["samples"]] == correct
    assert found["metrics"]["exact_match"]["value"] == sum(correct) / len(correct)


def test_harness_metrics_lose_their_filter_and_keep_their_error():
    harness = {"alias": "parity", "sample_len": 4, "f1,stripped": 0.5, "f1_stderr,stripped": "N/A"}
    assert metric_values(harness) == {"f1": Metric(value=0.5, stderr=None)}


def test_existing_result_is_refused_and_left_alone(config):
    config.output.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        evaluate(config)
    assert config.output.read_text() == "mine"


def test_result_that_another_process_is_writing_is_refused(config):
    with reserved(config.output), pytest.raises(UserError, match=r"result.json: another process is writing it"):
        evaluate(config)
    assert list(config.output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-pauses-inf", "64"], "no room for the prompt: 64 pauses"),
        (["--task", "sudoku"], "--task sudoku: unknown"),
        (["--model", "absent"], "absent: no such folder, and no model of this name in the cache of the hub"),
    ],
)
def test_user_errors_print_one_line_and_write_no_result(config, flags, message, capsys):
    given = {"--model": str(config.model), "--task": "parity", "--data": str(config.data)}
    given |= {"--output": str(config.output), **dict([flags])}
    assert main(["evaluate", *(word for pair in given.items() for word in pair)]) == EXIT_USER
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line
    assert not config.output.exists()
