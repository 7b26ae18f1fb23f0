"""Tasks that do not come with this project: found, finetuned on, evaluated with pauses, and refused with a reason."""

import json
import shutil

import pytest

from pause_megatron.cli.main import main
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.config.prompting import Prompting
from pause_megatron.config.task_definitions import find_definition, require_task
from pause_megatron.downstream.evaluate import evaluate
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.prompting import finetuned_task
from pause_megatron.downstream.task_results import metric_values
from pause_megatron.downstream.tasks import load_task
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from pause_megatron.records.evaluation import Metric
from tests.downstream.own_tasks import (
    DEFINITIONS,
    HARNESS_RECORDS,
    QUIZ,
    write_chat_model,
    write_definitions,
    write_records,
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def place(tmp_path):
    return write_definitions(tmp_path / "definitions")


def result(path):
    return json.loads(path.read_text(encoding="utf-8"))


def short(model, output, **settings) -> FinetuneConfig:
    return FinetuneConfig(
        model=model,
        output=output,
        pausing=FinetunePausing(num_pauses_ft=2),
        **{"steps": 2, "batch_size": 2, "warmup_steps": 0, **settings},
    )


@pytest.mark.parametrize("name", [*DEFINITIONS, *HARNESS_RECORDS])
def test_a_task_is_finetuned_on_and_evaluated_with_pauses(name, chat_model, place, tmp_path):
    common = {"task": name, "include_path": place}
    if name in HARNESS_RECORDS:
        common = {"task": name, "data": write_records(tmp_path / "data", *HARNESS_RECORDS[name])}
    halve = name == "lambada_openai"
    finetune(short(chat_model, tmp_path / "ft", **common, halve_evaluation=halve))
    evaluate(EvaluateConfig(model=tmp_path / "ft", output=tmp_path / "result.json", **common))
    found = result(tmp_path / "result.json")
    assert (found["task"], found["finetuning"]["task"]) == (name, name)
    assert found["definition"]["source"] == ("harness" if name in HARNESS_RECORDS else "include-path")
    assert found["num_pauses_inf"] == 2
    assert found["halved"] == halve
    assert "prompting" not in found  # no examples, also where the definition has some: finetuning had none
    assert found["num_samples"] == len(found["samples"])
    assert found["primary_metric"] in found["metrics"]
    for sample in found["samples"]:
        assert sample["pauses"] == 2
        assert sample["prompt"]
        assert sample["target"]
        assert 0 <= sample["correct"] <= 1


def test_a_definition_is_learned_through_the_command_line(model_path, place, tmp_path):
    """With enough steps every choice is learned, so a wrong prompt or answer would show."""
    common = ["--task", str(place / "capital_choices.yaml"), "--data", str(place / "quiz")]
    recipe = ["--num-pauses-ft", "2", "--steps", "60", "--batch-size", "6", "--warmup-steps", "5"]
    recipe += ["--learning-rate", "5e-3"]
    model = ["--model", str(model_path("llama"))]
    assert main(["finetune", *model, *common, *recipe, "--output", str(tmp_path / "ft")]) == EXIT_DONE
    output = ["--output", str(tmp_path / "result.json")]
    assert main(["evaluate", "--model", str(tmp_path / "ft"), *common, *output]) == EXIT_DONE
    found = result(tmp_path / "result.json")
    assert found["metrics"]["acc"]["value"] == 1.0
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["definition"] == {
        "source": "file",
        "sha256": find_definition(str(place / "capital_choices.yaml"), None).sha256,
        "output_type": "multiple_choice",
        "higher_is_better": True,
    }
    assert found["samples"][0]["prompt"] == "Choose the capital.\n\nCountry: France\nCapital:"
    assert found["samples"][0]["output"] == found["samples"][0]["target"] == "Paris"


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", [*DEFINITIONS, *HARNESS_RECORDS])
def test_finetuning_words_a_document_as_the_harness_requests_it(name, chat, chat_model, place, tmp_path):
    """Prompt and correct answer are those of one request, so that nothing else is learned than is scored."""
    data = place / "quiz" if name in DEFINITIONS else write_records(tmp_path / "data", *HARNESS_RECORDS[name])
    folder = load_model_folder(chat_model)
    include = place if name in DEFINITIONS else None
    config = short(chat_model, tmp_path, task=name, include_path=include, data=data, apply_chat_template=chat)
    task = finetuned_task(folder, load_task(name, data, include_path=include, halve=name == "lambada_openai"), config)
    harness = task.harness
    harness.build_all_requests(apply_chat_template=chat, chat_template=task.chat, fewshot_as_multiturn=chat)
    for number, document in enumerate(harness.eval_docs):
        pair, requests = task.pair(document), [each.args for each in harness.instances if each.doc_id == number]
        if harness.OUTPUT_TYPE == "generate_until":
            assert pair.context == requests[0][0]
            assert pair.target == ("" if chat else " ") + task.target(document)
        else:
            assert pair.context == pair.context.rstrip()
            assert pair.context + pair.target in [context + answer for context, answer in requests]
            assert task.target(document).strip() in pair.context + pair.target


def test_lambada_scores_the_word_after_its_space(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"text": "they went to the lake"}\n' * 2)
    task = load_task("lambada", tmp_path)
    task.harness.build_all_requests()
    assert task.harness.instances[0].args == ("they went to the", " lake")
    [pair] = task.training_pairs()
    assert (pair.context, pair.target) == ("they went to the", " lake")


def test_a_definition_needs_no_list_of_fields_and_keeps_all_of_a_record(place):
    task = load_task(str(place / "capital_choices.yaml"), place / "quiz")
    assert [document["note"] for document in task.harness.eval_docs] == [each["note"] for each in QUIZ]
    assert task.metrics == ["acc", "acc_norm"]


def test_a_folder_overrides_the_tasks_of_this_project_and_the_harness(place):
    text = (place / "capital_choices.yaml").read_text().replace("capital_choices", "gsm8k")
    (place / "deep" / "er").mkdir(parents=True)
    (place / "deep" / "er" / "mine.yaml").write_text(text.replace("common.yaml", "../../common.yaml"))
    found = find_definition("gsm8k", place)
    assert (found.name, found.source) == ("gsm8k", "include-path")
    assert find_definition("gsm8k", None).source == "shipped"
    assert find_definition("harness:gsm8k", place).source == "harness"


def test_a_name_in_an_included_file_is_found(place):
    (place / "alias.yaml").write_text("include: named.txt\nnum_fewshot: 1\n")
    (place / "named.txt").write_text(
        DEFINITIONS["capital_choices"].replace("task: capital_choices", '"task":  "other"')
    )
    assert find_definition("other", place).values["num_fewshot"] == 1


def test_the_hash_of_a_definition_covers_its_functions_and_not_its_place(place, tmp_path):
    before = find_definition(str(place / "capital_decoded.yaml"), None)
    copy = shutil.copytree(place, tmp_path / "copy")
    moved = find_definition(str(copy / "capital_decoded.yaml"), None)
    assert before.sha256 == moved.sha256
    assert {file.name for file in before.files} == {"capital_decoded.yaml", "common.yaml", "wording.py"}
    (copy / "wording.py").write_text((place / "wording.py").read_text().replace("Which", "What"))
    assert find_definition(str(copy / "capital_decoded.yaml"), None).sha256 != before.sha256


def test_a_changed_definition_starts_an_unfinished_finetuning_over(chat_model, place, tmp_path):
    from pause_megatron.downstream.work_folder import _inputs

    config = short(chat_model, tmp_path / "ft", task="capital_decoded", include_path=place)
    assert {place / "wording.py", place / "common.yaml"} <= set(_inputs(config))


def test_settings_of_a_prompt_are_recorded_and_examples_are_shown(chat_model, place, tmp_path):
    prompting = Prompting(num_fewshot=1, gen_kwargs=("max_gen_toks=3,until=['x']",), system_instruction="Be brief.")
    common = {"model": chat_model, "task": "capital_decoded", "include_path": place}
    evaluate(EvaluateConfig(**common, output=tmp_path / "result.json", prompting=prompting))
    found = result(tmp_path / "result.json")
    assert found["prompting"] == {
        "num_fewshot": 1,
        "chat_template": False,
        "fewshot_as_multiturn": False,
        "system_instruction": "Be brief.",
        "gen_kwargs": {"max_gen_toks": 3, "until": ["x"]},
    }
    assert found["samples"][0]["prompt"].startswith("Be brief.")
    assert found["samples"][0]["prompt"].count("Which city") == 2
    evaluate(EvaluateConfig(**common, output=tmp_path / "own.json"))
    assert result(tmp_path / "own.json")["prompting"]["num_fewshot"] == 2  # that of the definition


def test_a_model_finetuned_with_a_chat_template_is_evaluated_with_it(chat_model, place, tmp_path):
    common = {"task": "capital_choices", "include_path": place}
    finetune(short(chat_model, tmp_path / "ft", **common, apply_chat_template=True, system_instruction="Be brief."))
    evaluate(EvaluateConfig(model=tmp_path / "ft", output=tmp_path / "result.json", **common))
    found = result(tmp_path / "result.json")
    assert found["prompting"]["chat_template"]
    assert found["samples"][0]["prompt"].startswith("[system] Be brief.")
    off = Prompting(apply_chat_template=False, system_instruction="")
    evaluate(EvaluateConfig(model=tmp_path / "ft", output=tmp_path / "off.json", **common, prompting=off))
    assert result(tmp_path / "off.json")["samples"][0]["prompt"].startswith("Choose the capital.")


def test_metrics_of_several_filters_keep_the_names_of_the_filters():
    harness = {"alias": "x", "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1, "exact_match,loose": 1}
    assert metric_values({**harness, "bad,strict": float("nan"), "worse,strict": None}) == {
        "exact_match,strict": Metric(value=0.5, stderr=0.1),
        "exact_match,loose": Metric(value=1.0, stderr=None),
    }


def test_samples_without_a_score_from_0_to_1_have_none(chat_model, place, tmp_path):
    text = (place / "capital_likely.yaml").read_text()
    (place / "capital_likely.yaml").write_text(text[: text.index("  - {metric: acc")])
    common = {"model": chat_model, "task": "capital_likely", "include_path": place}
    evaluate(EvaluateConfig(**common, output=tmp_path / "result.json"))
    found = result(tmp_path / "result.json")
    assert found["primary_metric"] == "perplexity"
    assert found["definition"]["higher_is_better"] is False
    assert {sample["correct"] for sample in found["samples"]} == {None}
    assert "chance" not in found


GROUP = "group: many\ntask: [capital_choices, {task: capital_likely}]\n"
REFUSED = {
    "group": (GROUP, "is a group; give one of its members: capital_choices, capital_likely"),
    "class": ("task: x\nclass: !function wording.Task\n", "names a Python class, not prompts; evaluate it with"),
    "no name": ("dataset_path: json\n", "has no name; add a line such as"),
    "a list": ("- task: x\n", "holds a list; write lines such as"),
    "not YAML": ("task: [x\n", "not YAML ("),
    "no include": ("task: x\ninclude: absent.yaml\n", "absent.yaml: No such file or directory"),
    "itself": ("task: x\ninclude: it.yaml\n", "includes itself"),
    "no split": ("task: x\ndataset_path: json\n", "has no test_split and no validation_split; add one"),
    "images": ("include: common.yaml\ntask: x\ndoc_to_image: [image]\n", "has images or sound"),
    "code": ("include: common.yaml\ntask: x\nunsafe_code: true\n", "--confirm_run_unsafe_code"),
    "unknown key": ("include: common.yaml\ntask: x\nanswer: y\n", "the harness cannot use its definition"),
    "no function": (
        "include: common.yaml\ntask: x\nprocess_docs: !function wording.absent\n",
        "has no function 'absent'",
    ),
    "missing field": (
        "include: common.yaml\ntask: x\ndoc_to_text: '{{absent}}'\ndoc_to_target: country\n",
        "(UndefinedError: 'absent' is undefined)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_definition_that_cannot_be_used_is_refused(case, place):
    text, message = REFUSED[case]
    (place / "it.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_task(str(place / "it.yaml"), None)
    assert str(refused.value).startswith(f"--task {place / 'it.yaml'}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("absent.yaml", r"--task absent.yaml: no such file; correct the path"),
        ("arc_eazy", r"--task arc_eazy: unknown; did you mean 'arc_easy'\? tasks: 3sum, .*; or a task of lm-eval"),
        ("ai2_arc", r"--task ai2_arc: is a tag; give one of its tasks: arc_challenge, arc_easy"),
        ("mmlu", r"--task mmlu: is a group; give one of its members: .*mmlu_stem"),
        ("squadv2", r"--task squadv2: .*task.*yaml names a Python class"),
    ],
)
def test_what_is_no_task_is_refused_with_what_to_give(task, message):
    with pytest.raises(UserError, match=message):
        find_definition(task, None)
    if not task.endswith(".yaml"):
        with pytest.raises(UserError):
            require_task(task)


def test_a_missing_folder_of_definitions_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--include-path .*absent: no such folder"):
        find_definition("x", tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "its definition has no training split; give --halve-evaluation to finetune on half of 'test'"),
        ("training_split: test\n", "its definition trains on 'test' too; give --halve-evaluation"),
        ("output_type: loglikelihood_rolling\n", "scores complete texts and has no prompts to finetune on"),
    ],
)
def test_a_task_that_cannot_be_finetuned_on_is_refused(change, message, place):
    common = (place / "common.yaml").read_text().replace("training_split: train\n", "")
    (place / "common.yaml").write_text(common)
    text = "include: common.yaml\ntask: x\ndoc_to_text: country\ndoc_to_target: country\n" + change
    (place / "it.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_task(str(place / "it.yaml"), None).training_pairs()
    assert message in str(refused.value)


def test_halves_of_an_evaluation_split_named_train_do_not_overlap(place):
    common = (place / "common.yaml").read_text().replace("test_split: test", "test_split: train")
    (place / "common.yaml").write_text(common)
    task = load_task(str(place / "capital_choices.yaml"), None, halve=True)
    learned = {document["country"] for document in task.harness.training_docs()}
    evaluated = {document["country"] for document in task.harness.eval_docs}
    assert learned.isdisjoint(evaluated)
    assert len(learned) == len(evaluated) == 3


FLAGS = {
    "chat template": (["--apply-chat-template"], "has no chat template in its tokenizer_config.json; remove the flag"),
    "settings": (["--gen-kwargs", "max_gen_toks=3"], "capital_choices is scored, not decoded; remove the flag"),
    "turns": (["--fewshot-as-multiturn"], "--fewshot-as-multiturn: has no effect without --apply-chat-template"),
    "no value": (["--gen-kwargs", "max_gen_toks"], "is not NAME=VALUE"),
    "too many": (["--num-fewshot", "7"], "--num-fewshot 7: capital_choices has only 6 examples to show; give fewer"),
    "below 0": (["--num-fewshot", "-1"], "--num-fewshot -1: must be at least 0"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_without_effect_are_refused_on_one_line(case, model_path, place, tmp_path, capsys):
    flags, message = FLAGS[case]
    common = ["--model", str(model_path("llama")), "--task", "capital_choices", "--include-path", str(place)]
    assert main(["evaluate", *common, *flags, "--output", str(tmp_path / "result.json")]) == EXIT_USER
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line


def test_examples_that_the_harness_would_not_show_are_refused(place):
    (place / "common.yaml").write_text((place / "common.yaml").read_text() + "num_fewshot: 0\n")
    with pytest.raises(UserError, match=r"--num-fewshot 2: the definition of capital_choices has num_fewshot: 0"):
        load_task(str(place / "capital_choices.yaml"), None, num_fewshot=2)


def test_flags_of_the_harness_are_accepted_as_it_spells_them(place, chat_model, tmp_path):
    common = ["--model", str(chat_model), "--task", "capital_decoded", "--include_path", str(place)]
    flags = ["--num_fewshot", "1", "--apply_chat_template", "--gen_kwargs", "max_gen_toks=2", "do_sample=False"]
    output = ["--output", str(tmp_path / "result.json"), "--limit", "2"]
    assert main(["evaluate", *common, *flags, *output]) == EXIT_DONE
    found = result(tmp_path / "result.json")
    assert found["prompting"]["gen_kwargs"] == {"max_gen_toks": 2, "do_sample": False}
    assert found["prompting"]["fewshot_as_multiturn"]


def test_sampled_answers_are_the_same_in_each_evaluation(place, chat_model, tmp_path):
    prompting = Prompting(gen_kwargs=("do_sample=True", "temperature=1.0"))
    common = {"model": chat_model, "task": "capital_decoded", "include_path": place, "prompting": prompting}
    for name in ("one", "two"):
        evaluate(EvaluateConfig(**common, output=tmp_path / f"{name}.json"))
    one, two = (result(tmp_path / f"{name}.json")["samples"] for name in ("one", "two"))
    assert one == two


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError) as error:
        load_task("arc_easy", None)
    message = str(error.value)
    assert message.startswith("--task arc_easy: cannot load allenai/ai2_arc from the hub (")
    assert "give --data FOLDER here, or copy its cache here (HF_HOME) and set HF_HUB_OFFLINE=1" in message
    assert "\n" not in message


def test_files_that_a_definition_names_and_that_are_missing_are_one_line(place):
    shutil.rmtree(place / "quiz")
    with pytest.raises(UserError, match=r"--task capital_choices: dataset_path: json of .* gives no data \(") as error:
        load_task("capital_choices", None, include_path=place)
    assert "relative paths start from the current folder, or give --data FOLDER" in str(error.value)


def test_a_record_that_the_prompt_cannot_use_is_one_line(place, chat_model, tmp_path, capsys):
    """It is not the first record, so only the evaluation and the training example meet it."""
    records = [*QUIZ[:2], {**QUIZ[2], "answer": 9}]
    write_records(place / "quiz", ("train", "test"), records)
    (place / "wording.py").write_text(
        "def choice(document):\n    return ' ' + document['cities'][document['answer']]\n", encoding="utf-8"
    )
    text = DEFINITIONS["capital_likely"].replace('" {{cities[answer]}}"', "!function wording.choice")
    (place / "capital_likely.yaml").write_text(text)
    common = ["--task", "capital_likely", "--include-path", str(place), "--model", str(chat_model)]
    assert main(["evaluate", *common, "--output", str(tmp_path / "result.json")]) == EXIT_USER
    steps = ["--steps", "3", "--batch-size", "3", "--warmup-steps", "0", "--num-pauses-ft", "1"]
    assert main(["finetune", *common, *steps, "--output", str(tmp_path / "ft")]) == EXIT_USER
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 2
    for line in lines:
        assert "--task capital_likely: the harness cannot use its definition with these data (IndexError:" in line


def test_prompts_are_not_worded_for_complete_texts(model_path, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"text": "a class definition"}\n')
    common = {"model": model_path("llama"), "task": "text", "data": tmp_path, "output": tmp_path / "result.json"}
    with pytest.raises(UserError, match="--num-fewshot: text scores complete texts, which have no prompts"):
        evaluate(EvaluateConfig(**common, prompting=Prompting(num_fewshot=1)))
