"""Models like published ones: padding rows, a tokenizer without ``<pause>``, and random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedModel

from tests.tokenizer.foreign import make_foreign

PADDING_ROWS = 12
"""Embedding rows beyond the tokenizer's tokens; many published models have some."""
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 0.1,
    "high_freq_factor": 2.5,
    "original_max_position_embeddings": 20,
}
"""Scaled for more positions than 20; of the four frequencies one stays, one is interpolated and two are divided."""


@pytest.fixture(scope="package")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizers without ``<pause>``: that of GPT-2, and that of Qwen2 with a chat template."""
    folder = tmp_path_factory.mktemp("foreign")
    for kind in ("gpt2", "qwen2"):
        make_foreign(folder / kind, kind, list(topics.values())[:20])
    settings = folder / "qwen2" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": CHAT_TEMPLATE}))
    return {kind: folder / kind for kind in ("gpt2", "qwen2")}


def foreign_model(name: str, vocab_size: int) -> PreTrainedModel:
    """A random model of a published kind."""
    torch.manual_seed(0)
    tied = name == "gpt2" or name.endswith(", tied")
    common = {"vocab_size": vocab_size, "initializer_range": 0.1, "tie_word_embeddings": tied, "eos_token_id": 0}
    if name.startswith("gpt2"):
        config: Any = GPT2Config(n_positions=64, n_embd=32, n_layer=3, n_head=4, **common)  # its GELU is the tanh one
    else:
        kind = name.removesuffix(", tied")
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
        rope = {"rope_type": "default", "rope_theta": 500_000.0}
        rope |= LLAMA3_ROPE if kind == "llama3" else {}
        sizes |= {"head_dim": 12} if kind == "qwen3" else {}
        config = AutoConfig.for_model(
            "llama" if kind == "llama3" else kind,
            **(sizes | common),
            num_key_value_heads=2,
            max_position_embeddings=64,
            rope_parameters=rope,
        )
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # transformers starts them all at 0 and 1
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="package")
def foreign(tmp_path_factory: pytest.TempPathFactory, tokenizer_files: dict[str, Path]) -> Callable[..., Path]:
    """Function that returns the folder of a model, given its name and dtype."""
    made: dict[tuple[str, torch.dtype], Path] = {}

    def folder_of(name: str, dtype: torch.dtype = torch.float32) -> Path:
        if (name, dtype) not in made:
            folder = tmp_path_factory.mktemp("model") / name.replace(", ", "-")
            shutil.copytree(tokenizer_files["qwen2" if name.startswith("qwen") else "gpt2"], folder)
            vocab_size = len(AutoTokenizer.from_pretrained(folder))
            foreign_model(name, vocab_size + PADDING_ROWS).to(dtype).save_pretrained(folder)
            made[name, dtype] = folder
        return made[name, dtype]

    return folder_of
