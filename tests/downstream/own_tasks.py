"""Small tasks of each kind, as a user or lm-evaluation-harness defines them, their records, and a chat model."""

import json
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import save_tokenizer, to_huggingface
from pause_megatron.tokenizer.make_tokenizer import add_pause
from tests.downstream.random_models import random_model
from tests.tokenizer.foreign import make_foreign

CONTEXT_LENGTH = 2048
"""Enough for every prompt: the harness cuts a long one before padding it."""
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
CITIES = [
    *(("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid")),
    *(("Peru", "Lima"), ("Cuba", "Havana"), ("Iran", "Teheran")),
]
QUIZ = [
    {"country": country, "cities": [city, other, "Bonn"], "answer": 0, "note": None if index % 2 else "seen"}
    for index, ((country, city), (_, other)) in enumerate(zip(CITIES, CITIES[1:] + CITIES[:1], strict=True))
]
"""Records of the three definitions below; "note" is no field of theirs."""
COMMON = """
dataset_path: json
dataset_kwargs:
  data_files: {train: %(folder)s/train.jsonl, test: %(folder)s/test.jsonl}
training_split: train
test_split: test
metadata: {version: 1.0}
"""
DEFINITIONS = {
    "capital_choices": """
include: common.yaml
task: capital_choices
description: "Choose the capital.\\n\\n"
output_type: multiple_choice
doc_to_text: "Country: {{country}}\\nCapital:"
doc_to_target: answer
doc_to_choice: cities
""",
    "capital_decoded": """
include: common.yaml
task: capital_decoded
process_docs: !function wording.louder
fewshot_split: train
num_fewshot: 2
output_type: generate_until
doc_to_text: !function wording.question
doc_to_target: "{{cities[answer]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 6}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
filter_list:
  - name: complete
    filter: [{function: take_first}]
  - name: first-word
    filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]
""",
    "capital_likely": """
include: common.yaml
task: capital_likely
output_type: loglikelihood
doc_to_text: "The capital of {{country}} is"
doc_to_target: " {{cities[answer]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}
WORDING = """
def louder(documents):
    return documents.map(lambda document: {"country": document["country"].upper()})


def question(document):
    return f"Which city is the capital of {document['country']}?\\n"
"""


def _arc(question: str, choices: list[str], answer: str, labels: str = "ABC") -> dict[str, Any]:
    return {
        "question": question,
        "choices": {"text": choices, "label": list(labels[: len(choices)])},
        "answerKey": answer,
    }


def _winogrande(sentence: str, options: list[str], answer: str) -> dict[str, Any]:
    return {"sentence": sentence, "option1": options[0], "option2": options[1], "answer": answer}


HARNESS_RECORDS: dict[str, tuple[tuple[str, ...], list[dict[str, Any]]]] = {
    "arc_easy": (
        ("train", "validation", "test"),
        [
            _arc("Which one is a fruit?", ["apple", "stone"], "A"),
            _arc("What is wet?", ["sand", "fire", "rain"], "3", "123"),
            _arc("What flies?", ["a car", "a bird"], "B"),
            _arc("What is cold?", ["ice", "steam"], "A"),
        ],
    ),
    "winogrande": (
        ("train", "validation"),
        [
            _winogrande("The cup is in the bag because the _ is large.", ["cup", "bag"], "2"),
            _winogrande("Ann helped Eve since _ was tired.", ["Ann", "Eve"], "2"),
            _winogrande("The dog saw the cat and _ barked.", ["dog", "cat"], "1"),
        ],
    ),
    "harness:gsm8k": (
        ("train", "test"),
        [
            {
                "question": f"Tom has {number} pears and gets one more. How many?",
                "answer": f"{number} + 1 = {number + 1}\n#### {number + 1}",
            }
            for number in range(1, 8)
        ],
    ),
    "lambada_openai": (
        ("test",),
        [
            {"text": "the import statement combines two operations ; it searches for the named module"},
            {"text": "a class definition is an executable statement"},
            {"text": "an expression list yields a tuple"},
            {"text": "the object is bound to the name"},
        ],
    ),
}
"""Name of a task of the harness to its splits, and records of each in the hub's schema."""


def write_records(folder: Path, splits: Sequence[str], records: Sequence[dict[str, Any]]) -> Path:
    """Write the same ``records`` to each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def write_definitions(folder: Path) -> Path:
    """Write the definitions to ``folder``, and their records to ``folder/quiz``."""
    quiz = write_records(folder / "quiz", ("train", "test"), QUIZ)
    (folder / "common.yaml").write_text(COMMON % {"folder": quiz}, encoding="utf-8")
    (folder / "wording.py").write_text(WORDING, encoding="utf-8")
    for name, text in DEFINITIONS.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def write_chat_model(folder: Path) -> Path:
    """Write a random model whose tokenizer puts a beginning-of-text token before texts, and has a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    add_pause(make_foreign(folder / "foreign", "llama2", list(topics.values())[:30]), folder / "tokenizer")
    tokenizer = PauseTokenizer.load(folder / "tokenizer")
    model = random_model("llama", tokenizer.vocab_size, context_length=CONTEXT_LENGTH)
    model.generation_config.eos_token_id = tokenizer.eod_id
    model.generation_config.suppress_tokens = [tokenizer.pause_id]  # as in exports
    model.save_pretrained(folder / "model")
    ours = to_huggingface(tokenizer)
    ours.chat_template = CHAT_TEMPLATE
    save_tokenizer(ours, folder / "model")
    return folder / "model"
