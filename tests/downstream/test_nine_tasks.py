"""The paper's nine tasks on real samples: prompts, training targets, and answers equal to those of the harness's model.

Skipped without the samples.
"""

import json
import shutil
from itertools import islice

import pytest
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM

from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.downstream.evaluate import evaluate
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import load_task
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.baking import bake_pauses
from pause_megatron.tokenizer.huggingface import to_huggingface
from tests.downstream.random_models import ARCHITECTURES, random_model
from tests.downstream.real_samples import FOLDERS, SAMPLES
from tests.quick import others_slow

COMPARED = {"commonsense_qa_choices": "commonsense_qa", "web_questions_choices": "webqs"}
CONTEXT_LENGTH = 768
"""Context of the models (tokens); some conversations are longer and lose their beginning."""
NO_TRAINING_SPLIT = {"coqa"}
"""Samples without a training split; the definition of LAMBADA halves them itself."""

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples of the nine tasks are missing")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Folders with the first samples of every split."""
    root = tmp_path_factory.mktemp("few")
    for folder in {*FOLDERS.values(), *COMPARED.values()}:
        (root / folder).mkdir()
        for path in (SAMPLES / folder).glob("*.jsonl"):
            with open(path, encoding="utf-8") as file:
                (root / folder / path.name).write_text("".join(islice(file, 12)), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def long_models(tokenizer, tmp_path_factory):
    """Folders of random models with room for most prompts, by architecture."""
    root = tmp_path_factory.mktemp("long")
    for architecture in ARCHITECTURES:
        model = random_model(architecture, tokenizer.vocab_size, context_length=CONTEXT_LENGTH)
        model.generation_config.suppress_tokens = [tokenizer.pause_id]  # as in exports
        model.save_pretrained(root / architecture)
        to_huggingface(tokenizer).save_pretrained(root / architecture)
    return root


def task_of(name, few):
    folder = few / {**FOLDERS, **COMPARED}[name]
    return load_task(name, folder, halve=name in NO_TRAINING_SPLIT)


@pytest.mark.parametrize("name", [*FOLDERS, *COMPARED])
def test_finetuning_reads_the_prompts_that_are_evaluated(few, name):
    task = task_of(name, few)
    task.harness.set_fewshot_seed(0)
    task.harness.build_all_requests()
    documents = list(task.harness.eval_docs)
    first_requests = {instance.doc_id: instance.args[0] for instance in reversed(task.harness.instances)}
    assert [first_requests[index] for index in range(len(documents))] == list(map(task.harness.doc_to_text, documents))
    for pair, document in zip(task.training_pairs(), task.harness.training_docs(), strict=True):
        assert pair.context == task.harness.doc_to_text(document)
        assert pair.target == " " * (task.harness.OUTPUT_TYPE != "loglikelihood") + task.target(document)
        assert pair.target.strip()
        if task.harness.OUTPUT_TYPE != "generate_until":  # decoded answers are not in a request
            requests = [instance.args for instance in task.harness.instances if instance.doc == document]
            assert not requests or (pair.context, pair.target) in requests


@pytest.mark.parametrize(
    ("name", "context", "target"),
    [
        ("gsm8k", "Question: Natalia sold", " Natalia sold 48/2"),
        ("squad", "It threatened the collapse", None),
        ("coqa", "Once upon a time, in a barn", " white"),
        ("commonsense_qa", "Question: The sanctions", " ignore"),
        ("piqa", "Question: When boiling butter", " Pour it into a jar"),
        ("hellaswag", "Health:", None),
        ("lambada", "In my palm is a clear stone", " signs"),
        ("web_questions", "Question: what is the name of justin bieber brother?", " Jazmyn Bieber"),
        ("natural_questions", "Question: where did they film hot tub time machine?", " Fernie Alpine Resort"),
    ],
)
def test_first_example_of_a_task(few, name, context, target):
    pair = task_of(name, few).training_pairs()[0]
    assert pair.context.startswith(context)
    assert target is None or pair.target.startswith(target)


def test_every_turn_of_a_conversation_has_the_turns_before_it(few):
    task = task_of("coqa", few)
    documents = list(task.harness.eval_docs)
    conversations = [json.loads(line) for line in (few / "coqa" / "validation.jsonl").read_text().splitlines()][1::2]
    assert len(documents) == sum(len(each["questions"]["input_text"]) for each in conversations)
    second = task.harness.doc_to_text(documents[1])
    first_question, first_answer = (conversations[0][key]["input_text"][0] for key in ("questions", "answers"))
    assert f"Q: {first_question}\nA: {first_answer}\nQ: " in second
    assert len(documents[0]["answers"]) == 4
    learned = {document["story"] for document in task.harness.training_docs()}
    assert learned.isdisjoint(document["story"] for document in documents)


def test_half_of_lambada_is_trained_on_and_the_other_half_evaluated(few):
    task = task_of("lambada", few)
    assert task.halved
    learned, evaluated = ({each["text"] for each in documents} for documents in _lambada(task))
    assert learned.isdisjoint(evaluated)
    assert len(learned) == len(evaluated) == 6


def _lambada(task):
    return task.harness.training_docs(), task.harness.eval_docs


def results_of(model, task, limit=4):
    found = evaluator.evaluate(model, {task.name: task.harness}, limit=limit)
    return [
        (sample["doc_id"], sample["filtered_resps"], *(sample[metric["metric"]] for metric in _metrics(task)))
        for sample in found["samples"][task.name]
    ]


def _metrics(task):
    return task.harness.config.metric_list


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", others_slow([*FOLDERS, *COMPARED], quick={*FOLDERS, *COMPARED} - {"gsm8k"}))
def test_causal_scores_without_pauses_of_every_sample_equal_those_of_hf(long_models, few, name, architecture):
    folder = load_model_folder(long_models / architecture)
    ours = PauseLM(folder, Pausing(num_pauses=0), batch_size=3)
    theirs = HFLM(folder.model, backend="causal", tokenizer=folder.tokenizer, batch_size=3, max_length=CONTEXT_LENGTH)
    found, expected = (results_of(model, task_of(name, few)) for model in (ours, theirs))
    assert len(found) == len(expected) >= 4
    for (index, answers, *scores), (expected_index, expected_answers, *expected_scores) in zip(
        found, expected, strict=True
    ):
        assert index == expected_index
        assert scores == pytest.approx(expected_scores, abs=1e-4)
        if isinstance(answers[0], str):
            assert answers == expected_answers
        else:
            for (score, greedy), (expected_score, expected_greedy) in zip(answers, expected_answers, strict=True):
                assert score == pytest.approx(expected_score, abs=1e-4)
                assert greedy == expected_greedy


DECODED = ("gsm8k", "squad", "coqa", "commonsense_qa", "web_questions", "natural_questions")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "gsm8k" else ()) for name in DECODED]
)
def test_stock_hf_with_chat_template_decodes_a_baked_export_like_ours_the_plain_one(long_models, few, name, tmp_path):
    plain = load_model_folder(long_models / "llama")
    plain.model.save_pretrained(tmp_path)
    bake_pauses(plain.tokenizer, 3).save_pretrained(tmp_path)
    stock = HFLM(str(tmp_path), device="cpu", batch_size=3, max_length=CONTEXT_LENGTH, add_bos_token=False)
    ours = PauseLM(plain, Pausing(num_pauses=3), batch_size=3)
    limit = 3
    found = evaluator.evaluate(stock, {name: task_of(name, few).harness}, limit=limit, apply_chat_template=True)
    answers = [sample["filtered_resps"] for sample in found["samples"][name]]
    assert answers == [response for _, response, *_ in results_of(ours, task_of(name, few), limit)]
    unpaused = results_of(PauseLM(plain, Pausing(num_pauses=0), batch_size=3), task_of(name, few), limit)
    assert answers != [response for _, response, *_ in unpaused]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_task_is_finetuned_and_evaluated(long_models, few, name, tmp_path):
    data, halve = few / FOLDERS[name], name in NO_TRAINING_SPLIT
    finetune(
        FinetuneConfig(
            model=long_models / "llama",
            task=name,
            data=data,
            halve_evaluation=halve,
            output=tmp_path / "ft",
            pausing=FinetunePausing(num_pauses_ft=2),
            steps=2,
            batch_size=2,
            warmup_steps=0,
        )
    )
    evaluate(EvaluateConfig(model=tmp_path / "ft", task=name, data=data, output=tmp_path / "result.json", limit=3))
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["num_samples"] == 3
    assert result["halved"] == (halve or name == "lambada")
    assert result["primary_metric"] in result["metrics"]
    for sample in result["samples"]:
        assert sample["pauses"] == 2
        assert sample["prompt"]
        assert sample["target"]
        assert 0 <= sample["correct"] <= 1


def test_a_model_is_not_evaluated_on_its_training_data(long_models, few, tmp_path):
    settings = {
        "model": long_models / "llama",
        "task": "coqa",
        "data": few / "coqa",
        "pausing": FinetunePausing(num_pauses_ft=0),
    }
    with pytest.raises(UserError, match=r"train.jsonl: no such file; .*--halve-evaluation"):
        finetune(FinetuneConfig(**settings, output=tmp_path / "ft"))
    finetune(FinetuneConfig(**settings, output=tmp_path / "ft", halve_evaluation=True, steps=1, batch_size=1))
    with pytest.raises(UserError, match="was finetuned on half of the evaluation split"):
        evaluate(
            EvaluateConfig(
                model=tmp_path / "ft",
                task="coqa",
                data=few / "coqa",
                output=tmp_path / "result.json",
                halve_evaluation=False,
            )
        )


def test_error_names_the_missing_field(few, tmp_path):
    folder = shutil.copytree(few / "squad", tmp_path / "squad")
    record = json.loads((folder / "validation.jsonl").read_text().splitlines()[0])
    record["answers"]["text"] = []
    (folder / "validation.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=r'validation.jsonl:1: expected an object with "answers.text", a list of one'):
        load_task("squad", folder)
