"""``import pause_megatron`` offers insertion, masks, a data collator and generation for any model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

import pause_megatron
from pause_megatron.errors import UserError
from tests.documentation import REPOSITORY
from tests.test_how_tos import run_page

Pair = tuple[GPTNeoXForCausalLM, Any]


def stock_pair() -> Pair:
    """A random GPT-NeoX, an architecture that no export has, and a tokenizer without <pause>."""
    torch.manual_seed(0)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["0 1 plus equals, literally <pause>"], vocab_size=300, special_tokens=["<eod>"])
    config = GPTNeoXConfig(
        vocab_size=290,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return GPTNeoXForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eod>")


@pytest.fixture
def pair() -> Pair:
    model, tokenizer = stock_pair()
    return model, pause_megatron.add_pause(model, tokenizer)


def test_add_pause_keeps_other_rows_and_ids() -> None:
    model, tokenizer = stock_pair()
    before = model.get_input_embeddings().weight.detach().clone()
    added = pause_megatron.add_pause(model, tokenizer)
    pause_id = added.convert_tokens_to_ids("<pause>")
    assert pause_id == len(tokenizer)
    after = model.get_input_embeddings().weight
    assert torch.equal(after[:pause_id], before[:pause_id])
    text = "0 plus 1, literally <pause> here"
    assert added.encode(text) == tokenizer.encode(text)
    with pytest.raises(UserError, match="already has <pause>"):
        pause_megatron.add_pause(model, added)


def test_insert_pauses_is_the_papers_insertion() -> None:
    stream = np.arange(1, 1001, dtype=np.int32)
    sequences = pause_megatron.insert_pauses(stream, pause_id=2000, pause_rate=0.1, seq_length=50)
    assert sequences.dtype == stream.dtype
    assert sequences.shape[1] == 50
    real = sequences[sequences != 2000]
    assert np.array_equal(real, stream[: len(real)]), "no text is lost"
    assert 0 < (sequences == 2000).mean() < 0.1
    assert np.array_equal(sequences, pause_megatron.insert_pauses(list(stream), pause_id=2000, seq_length=50))
    mask = pause_megatron.loss_mask(sequences[:, 1:], 2000)
    assert np.array_equal(mask, sequences[:, 1:] != 2000)


@pytest.mark.parametrize(
    ("tokens", "settings", "message"),
    [
        (np.zeros((2, 3), dtype=int), {}, r"an array of shape \(2, 3\)"),
        (np.zeros(3), {}, "float64"),
        ([1, 7, 2], {}, "token 7 is <pause>"),
        (np.ones(9, dtype=np.uint8), {"pause_id": 256}, "does not fit uint8"),
        ([1, 2], {"pause_rate": 1.5}, "must be at least 0 and below 1"),
    ],
)
def test_insert_pauses_refuses(tokens: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pause_megatron.insert_pauses(tokens, **{"pause_id": 7, "seq_length": 4, **settings})


@pytest.mark.parametrize("prefix_attention", ["causal", "bidirectional"])
def test_collator_gives_what_the_definition_says(pair: Pair, prefix_attention: Any) -> None:
    model, tokenizer = pair
    collator = pause_megatron.PauseDataCollator(model, tokenizer, num_pauses=3, prefix_attention=prefix_attention)
    batch = collator([{"prompt": "0 plus 1 equals", "completion": " 1"}, {"prompt": "0", "completion": " 0 1"}])
    pause, eod = tokenizer.convert_tokens_to_ids("<pause>"), tokenizer.eos_token_id
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    rows = [
        (encode("0 plus 1 equals") + 3 * [pause], [*encode(" 1"), eod]),
        (encode("0") + 3 * [pause], [*encode(" 0 1"), eod]),
    ]
    border = max(len(prefix) for prefix, _ in rows)
    width = border + max(len(target) for _, target in rows)
    for row, (prefix, target) in enumerate(rows):
        padded = (border - len(prefix)) * [eod] + prefix + target
        padded += (width - len(padded)) * [eod]
        assert batch["input_ids"][row].tolist() == padded
        labels = [-100, *target] + (width - border - len(target)) * [-100]
        assert batch["labels"][row].tolist() == labels
        start, end = border - len(prefix), border + len(target)
        mask = batch["attention_mask"][row]
        if prefix_attention == "causal":  # the model's own mask
            assert mask.tolist() == [int(start <= column < end) for column in range(width)]
            continue
        for query in range(start, end):
            for key in range(start, end):
                assert (mask[0, query, key] == 0) == (key <= query or max(key, query) < border)


def test_trainer_learns_and_generation_equals_recomputation(pair: Pair, tmp_path: Path) -> None:
    model, tokenizer = pair
    examples = [{"prompt": f"{a} plus {b} equals", "completion": f" {a | b}"} for a in (0, 1) for b in (0, 1)]
    settings: Any = {"report_to": "none", "save_strategy": "no", "remove_unused_columns": False, "use_cpu": True}
    arguments = TrainingArguments(str(tmp_path), max_steps=60, learning_rate=1e-2, logging_steps=60, **settings)
    collator = pause_megatron.PauseDataCollator(model, tokenizer, num_pauses=3)
    trained = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collator).train()
    assert trained.training_loss < 2.5, "a random model has a loss of 5.7"
    prompts = [example["prompt"] for example in examples]
    answers = pause_megatron.generate(model, tokenizer, prompts, num_pauses=3, max_new_tokens=4)
    pause = tokenizer.convert_tokens_to_ids("<pause>")
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer.encode(prompt, add_special_tokens=False) + 3 * [pause]
        start = len(ids)
        for _ in range(4):
            logits = model(torch.tensor([ids])).logits[0, -1]
            logits[pause] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert answer == tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_models_without_pause_are_refused_with_the_way_to_add_it() -> None:
    model, tokenizer = stock_pair()
    for use in (
        lambda: pause_megatron.generate(model, tokenizer, ["0"]),
        lambda: pause_megatron.PauseDataCollator(model, tokenizer),
    ):
        with pytest.raises(UserError, match=r"the tokenizer has no <pause>; add it with pause_megatron\.add_pause"):
            use()
    assert pause_megatron.generate(model, tokenizer, ["0"], num_pauses=0, max_new_tokens=1)


def test_paths_may_be_strings(tmp_path: Path, pair: Pair) -> None:
    model, tokenizer = pair
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert pause_megatron.load_model_folder(str(tmp_path)).pause_id == tokenizer.convert_tokens_to_ids("<pause>")


PROGRAM = """
import logging, os, sys, warnings
names = ("transformers", "lm_eval", "DeepSpeed", "datasets", "torch")
loggers = {name: logging.getLogger(name).level for name in names}
environment, filters = dict(os.environ), list(warnings.filters)
import pause_megatron
heavy = [name for name in ("torch", "numpy", "transformers", "lm_eval") if name in sys.modules]
assert not heavy, heavy
assert {"generate", "loss_mask"} <= set(dir(pause_megatron))
for name in pause_megatron.__all__:
    getattr(pause_megatron, name)
import pause_megatron.downstream.evaluate
import transformers
assert transformers.logging.get_verbosity() == logging.WARNING
changed = {name: value for name, value in os.environ.items() if environment.get(name) != value}
ours = {name for name in changed if name.startswith(("TQDM", "TRANSFORMERS", "HF_"))}
assert not ours, ours
for name, level in loggers.items():
    assert name == "transformers" or logging.getLogger(name).level in (level, logging.WARNING), name
    assert not logging.getLogger(name).filters, name
"""


def test_importing_leaves_the_logging_of_other_libraries_alone() -> None:
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("TQDM", "TRANSFORMERS"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=unset, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        pause_megatron.generat  # noqa: B018


def test_the_page_about_own_code_runs(tmp_path: Path) -> None:
    page = "how_to/own_code.md"
    assert run_page((REPOSITORY / "docs" / page).read_text(encoding="utf-8"), page, tmp_path) == 1
