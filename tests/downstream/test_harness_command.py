"""The harness's own command and registry with this project's model class: ``pause-megatron lm-eval``."""

import json
import subprocess
import sys

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from pause_megatron.downstream.harness_command import MODEL_NAME
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from tests.downstream.own_tasks import CONTEXT_LENGTH, write_chat_model, write_definitions

TASKS = ["capital_choices", "capital_decoded", "capital_likely"]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_definitions(tmp_path_factory.mktemp("definitions"))


def samples_of(model, place):
    manager = TaskManager(include_path=str(place), include_defaults=False)
    return simple_evaluate(model, tasks=TASKS, task_manager=manager)["samples"]


def made(model, **settings) -> PauseLM:
    return get_model(MODEL_NAME).create_from_arg_obj({"pretrained": str(model), **settings}, {"batch_size": "2"})


def test_the_class_pauses_as_asked(chat_model, place):
    folder = load_model_folder(chat_model)
    hf = HFLM(folder.model, backend="causal", tokenizer=folder.tokenizer, batch_size=3, max_length=CONTEXT_LENGTH)
    expected, without, with_pauses = (
        samples_of(model, place) for model in (hf, made(chat_model), made(chat_model, num_pauses=3))
    )
    for task in TASKS:
        for one, other in zip(without[task], expected[task], strict=True):
            for answer, expected_answer in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
                assert answer == expected_answer or answer[0] == pytest.approx(expected_answer[0], abs=1e-4)
    assert without["capital_choices"][0]["resps"] != with_pauses["capital_choices"][0]["resps"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_pause": 1}, "--model_args num_pause: unknown; did you mean 'num_pauses'?"),
        ({"precision": "fp8"}, "--model_args precision=fp8: unknown; give fp32 or bf16"),
        ({"pause_placement": "every", "num_pauses": 1, "prefix_attention": "bidirectional"}, "--prefix-attention"),
    ],
)
def test_wrong_settings_are_refused(settings, message, chat_model):
    with pytest.raises(UserError) as refused:
        made(chat_model, **settings)
    assert message in str(refused.value)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "pause_megatron", "lm-eval", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow  # the harness reads all of its definitions
def test_the_command_writes_the_harness_s_results(chat_model, place, tmp_path):
    arguments = ["--model", MODEL_NAME, "--include_path", str(place), "--tasks", "capital_choices", "--log_samples"]
    arguments += ["--output_path", str(tmp_path)]
    done = run(*arguments, "--model_args", f"pretrained={chat_model},num_pauses=3")
    assert done.returncode == EXIT_DONE, done.stderr
    assert f"{MODEL_NAME} (" in done.stdout
    [file] = tmp_path.rglob("samples_*.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    expected = samples_of(made(chat_model, num_pauses=3), place)["capital_choices"]
    for one, other in zip(found, expected, strict=True):
        scores = [float(score) for score, _ in one["filtered_resps"]]
        assert scores == pytest.approx([score for score, _ in other["filtered_resps"]], abs=1e-4)


@pytest.mark.slow
def test_errors_of_the_model_are_one_line_and_help_is_the_harness_s_own():
    done = run("--model", MODEL_NAME, "--tasks", "arc_easy", "--model_args", "pretrained=absent")
    assert done.returncode == EXIT_USER
    assert "error: absent: no such folder" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("run", "--help")
    assert done.returncode == EXIT_DONE
    assert "--model_args" in done.stdout
