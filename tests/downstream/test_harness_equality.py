"""Without pauses, each sample of a task of any origin is worded and scored as by the harness's own ``hf`` model."""

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from pause_megatron.config.downstream import EvaluateConfig
from pause_megatron.config.prompting import Prompting
from pause_megatron.config.task_definitions import HARNESS_PREFIX, find_definition
from pause_megatron.downstream.evaluate import evaluate
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from tests.downstream.own_tasks import (
    CONTEXT_LENGTH,
    DEFINITIONS,
    HARNESS_RECORDS,
    write_chat_model,
    write_definitions,
    write_records,
)
from tests.quick import others_slow

WORDINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chat": {"apply_chat_template": True},
    "few-shot": {"num_fewshot": 2},
    "few-shot chat": {
        "num_fewshot": 1,
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "system_instruction": "Be brief.",
    },
}
CASES = [(name, wording) for name in (*DEFINITIONS, *HARNESS_RECORDS) for wording in WORDINGS]
QUICK = [(name, wording) for name, wording in CASES if wording == "few-shot chat" and name != "harness:gsm8k"]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_definitions(tmp_path_factory.mktemp("definitions"))


def stock_task(name: str, place: Path, data: Path) -> ConfigurableTask:
    """The harness's own task object, made by the harness from the definition; harness tasks read local files."""
    if name in DEFINITIONS:
        manager = TaskManager(include_path=str(place), include_defaults=False)
        return manager.load([name])["tasks"][name]
    keys = load_yaml(find_definition(name, None).path)
    keys.pop("tag", None)
    files = {path.stem: str(path) for path in data.glob("*.jsonl")}
    return ConfigurableTask(
        config={**keys, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    )


def samples_of(model, task: ConfigurableTask, wording: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    chat = wording.get("apply_chat_template", False)
    found = simple_evaluate(
        model,
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        **{"fewshot_as_multiturn": chat, **wording},
    )
    [samples], [results] = found["samples"].values(), found["results"].values()
    return samples, results


@pytest.mark.parametrize("case", others_slow(CASES, quick=QUICK), ids="-".join)
def test_samples_equal_those_of_hf(case, chat_model, place, tmp_path):
    name, wording = case
    settings = WORDINGS[wording]
    data = place / "quiz" if name in DEFINITIONS else write_records(tmp_path / "data", *HARNESS_RECORDS[name])
    folder = load_model_folder(chat_model)
    hf = HFLM(folder.model, backend="causal", tokenizer=folder.tokenizer, batch_size=3, max_length=CONTEXT_LENGTH)
    expected, results = samples_of(hf, stock_task(name, place, data), settings)
    found, _ = samples_of(PauseLM(folder, Pausing(num_pauses=0), batch_size=2), stock_task(name, place, data), settings)
    assert len(found) == len(expected) >= 3
    for one, other in zip(found, expected, strict=True):
        assert one["arguments"] == other["arguments"]
        if isinstance(other["filtered_resps"][0], str):
            assert one["resps"] == other["resps"]
        else:
            for (score, greedy), (expected_score, expected_greedy) in zip(
                one["filtered_resps"], other["filtered_resps"], strict=True
            ):
                assert score == pytest.approx(expected_score, abs=1e-4)
                assert greedy == expected_greedy

    from_file = name in DEFINITIONS
    config = EvaluateConfig(
        model=chat_model,
        task=str(place / f"{name}.yaml") if from_file else name,
        data=None if from_file else data,
        output=tmp_path / "result.json",
        prompting=Prompting(**settings),
    )
    evaluate(config)
    record = json.loads(config.output.read_text())
    metric, _, filtered = record["primary_metric"].partition(",")
    expected = [sample for sample in expected if filtered in ("", sample["filter"])]
    assert [sample["prompt"] for sample in record["samples"]] == [sample["arguments"][0][0] for sample in expected]
    assert [sample["correct"] for sample in record["samples"]] == [sample[metric] for sample in expected]
    assert record["task"] == name
    assert record["definition"]["source"] == ("file" if from_file else "harness")
    for key, value in results.items():
        name_of, _, filter_of = key.partition(",")
        if filter_of and not name_of.endswith("_stderr"):
            found_metric = record["metrics"][key if filtered else name_of]
            assert found_metric["value"] == pytest.approx(value, rel=1e-4, abs=1e-4)  # a perplexity may be huge


def test_a_prompt_begins_with_the_beginning_of_text_once(chat_model, place, tmp_path):
    """So the comparison above includes it."""
    folder = load_model_folder(chat_model)
    assert folder.encode("a")[0] == folder.bos_ids[0]
    assert folder.tokenizer.chat_template


def test_only_names_that_this_project_has_too_need_a_prefix():
    assert find_definition("gsm8k", None).source == "shipped"
    assert find_definition("harness:gsm8k", None).name == HARNESS_PREFIX + "gsm8k"
    assert find_definition("harness:arc_easy", None).name == "arc_easy"
