"""A finetuning that one process and two processes can repeat, and a comparison of their results."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.log import read_json_lines
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import to_huggingface
from tests.downstream.random_models import random_model

TOLERANCE = 1e-5
"""Largest difference of weights after six steps with a learning rate of 0.01; 4e-7 was measured."""
SHARING = {
    "plain": {},
    "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
    "fsdp": {"fsdp": "full_shard", "fsdp_config": {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}},
}


def small_config(tokenizer: PauseTokenizer, root: Path) -> FinetuneConfig:
    """Write a model with tied embeddings and a task to ``root``: very different targets in batches of four parts.

    The model is Llama's: the gradient of GPT-2's biases of keys is nothing but rounding, and AdamW makes a step of it.
    """
    model = random_model("llama", tokenizer.vocab_size)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(root / "model")
    to_huggingface(tokenizer).save_pretrained(root / "model")
    draw = random.Random(0)
    words = ("the", "name", "of", "class", "import", "is")
    records = [
        {key: " ".join(draw.choices(words, k=draw.randint(1, 9))) for key in ("question", "answer")} for _ in range(64)
    ]
    (root / "task").mkdir()
    for split in ("train", "test"):
        (root / "task" / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return FinetuneConfig(
        model=root / "model",
        task="parity",
        data=root / "task",
        output=root / "alone",
        pausing=FinetunePausing(num_pauses_ft="0..3"),
        steps=6,
        batch_size=8,
        gradient_accumulation_steps=2,
        warmup_steps=2,
        learning_rate=1e-2,
        log_interval=1,
        save_interval=2,
    )


def shared(config: FinetuneConfig, folder: Path, settings: dict) -> FinetuneConfig:
    """Return ``config`` with ``settings``, with mappings written to files, and with its output in ``folder``."""
    given = dict(settings)
    for name, value in settings.items():
        if isinstance(value, dict):
            given[name] = folder / f"{name}.json"
            given[name].write_text(json.dumps(value))
    return replace(config, output=folder / "together", **given)


class InterruptionError(Exception):
    pass


def parts_trained(config: FinetuneConfig, interrupt_at: int | None) -> int:
    """Finetune until the middle of step ``interrupt_at``; returns the number of micro-batches."""
    trained = 0
    training_step = Trainer.training_step

    def counted(self, *args, **kwargs):
        nonlocal trained
        if self.state.global_step == interrupt_at:
            raise InterruptionError
        trained += 1
        return training_step(self, *args, **kwargs)

    Trainer.training_step = counted  # for good: a process does this once
    try:
        finetune(config)
    except InterruptionError:
        assert interrupt_at is not None
    return trained


def same_results(alone: Path, together: Path) -> None:
    expected, found = (load_file(folder / "model.safetensors") for folder in (alone, together))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=TOLERANCE, rtol=0, msg=lambda text, name=name: name + text)
    lines = [read_json_lines(folder / "metrics.jsonl") for folder in (alone, together)]
    assert [line["step"] for line in lines[1]] == list(range(1, 7))
    for key in ("loss", "learning_rate"):
        assert [line[key] for line in lines[1]] == pytest.approx([line[key] for line in lines[0]], abs=TOLERANCE)
    assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
