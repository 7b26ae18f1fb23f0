"""Every key of ``config.json`` is converted, refused, named in a warning, or computes nothing: none is ignored."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import CONFIG_FILE, hf_model_config, read_hf_config
from pause_megatron.conversion.hf_settings import COMPUTES_NOTHING, KINDS, MUST_BE_OFF, MUST_BE_ONE, model_config_of
from pause_megatron.errors import UserError
from tests.conversion.conftest import LLAMA3_ROPE, foreign_model
from tests.training.runs import LLAMA, LLAMA3, QWEN2, QWEN3

VOCAB_SIZE = 40
NAMES = {"gpt2": "gpt2, untied", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
OTHER_VALUES: dict[str, Any] = {
    "activation_function": "relu",
    "hidden_act": "gelu",
    "architectures": ["LlamaForSequenceClassification"],
    "dtype": "float32",
    "torch_dtype": "float32",
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "regression",
    "layer_types": ["sliding_attention"] * 3,
    "n_inner": 64,
    "num_key_value_heads": 4,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "n_head": 2,
    "pad_token_id": 5,
    "bos_token_id": 6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 2e4},
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "rope_theta": 2e4,
    "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 32,
    "pause_positions": "shared",
    "head_dim": 16,
    "per_layer_config": {"0": {"num_key_value_heads": 4}},
    "is_causal": False,
    "use_sliding_window": True,
    "task_specific_params": {"text-generation": {"max_length": 5}},
    "summary_type": "mean",
    "attn_implementation": "sdpa",
    "_attn_implementation": "sdpa",
    "experts_implementation": "eager",
}
"""Another value of a setting, where none follows from its type."""
NO_SETTING = {"model_type"}


def another(key: str, value: Any) -> Any:
    """A value of ``key`` that differs from ``value``."""
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return 2 * value + 0.25
        case str():
            return f"{value} another"
    return 3


def written(folder: Path, kind: str, **changes: Any) -> Path:
    """Write ``config.json`` of the random model of a kind, with ``changes``."""
    foreign_model(NAMES[kind], VOCAB_SIZE).config.save_pretrained(folder)
    values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    (folder / CONFIG_FILE).write_text(json.dumps(values | changes))
    return folder


def imported(folder: Path) -> ModelConfig:
    return model_config_of(read_hf_config(folder), folder)


@torch.no_grad()
def logits(folder: Path, kind: str) -> list[torch.Tensor]:
    """Logits of stock transformers in evaluation and in training, with the weights of the unchanged model."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    model.load_state_dict(foreign_model(NAMES[kind], VOCAB_SIZE).state_dict())
    tokens = torch.arange(VOCAB_SIZE)[None]
    found = []
    for mode in (False, True):
        torch.manual_seed(0)
        found.append(model.train(mode)(tokens).logits.float())
    return found


def keys_of(kind: str) -> list[str]:
    """All keys that transformers writes or that a table has."""
    own = set(AutoConfig.for_model(kind).to_dict())
    tables = KINDS[kind].converted | KINDS[kind].required.keys() | COMPUTES_NOTHING | MUST_BE_OFF | MUST_BE_ONE
    return sorted((own | tables | set(OTHER_VALUES)) - NO_SETTING)


@pytest.mark.parametrize("kind", NAMES)
def test_no_key_is_ignored_that_computes_something(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unchanged = written(tmp_path / "unchanged", kind)
    before, expected = imported(unchanged), logits(unchanged, kind)
    values = AutoConfig.from_pretrained(unchanged).to_dict()
    inert = []
    for key in keys_of(kind):
        folder = written(tmp_path / key, kind, **{key: another(key, values.get(key))})
        capsys.readouterr()
        try:
            model = imported(folder)
        except UserError:
            continue
        warned = re.search(rf"ignoring .*\b{re.escape(key)}\b", capsys.readouterr().err)
        if model != before or warned or key == "vocab_size":
            continue
        inert.append(key)
        found = logits(folder, kind)
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True)), key
    assert {"bos_token_id", "use_cache", "architectures"} < set(inert) <= COMPUTES_NOTHING | {"sliding_window"}


@pytest.mark.parametrize("kind", NAMES)
def test_every_setting_of_transformers_is_in_a_table(kind: str) -> None:
    """A setting that a new version of transformers adds is refused unless it has its default; decide about it here."""
    known = KINDS[kind].converted | KINDS[kind].required.keys() | COMPUTES_NOTHING | MUST_BE_OFF | MUST_BE_ONE
    assert set(AutoConfig.for_model(kind).to_dict()) <= known | {*KINDS[kind].dropouts, "layer_types"}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("key", [*LLAMA3_ROPE, "rope_theta", "partial_rotary_factor", "attention_factor", "beta_fast"])
def test_every_key_of_scaled_rotary_positions_counts(kind: str, key: str, tmp_path: Path) -> None:
    rope = {**LLAMA3_ROPE, "rope_theta": 1e4}
    before = imported(written(tmp_path / "before", kind, rope_parameters=rope))
    changed = rope | {key: "yarn" if key == "rope_type" else 2 * rope.get(key, 0.25)}
    folder = written(tmp_path / "after", kind, rope_parameters=changed)
    try:
        after = imported(folder)
    except UserError as error:
        message = str(error)
    else:
        assert after != before
        return
    assert "rope" in message or "rotary" in message


@pytest.mark.parametrize(
    ("key", "value"), [("logits_scaling", 8.0), ("sliding_window", 16), ("is_causal", False), ("use_mrope", True)]
)
def test_a_key_that_another_program_computes_with_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"unsupported settings in config.json: {key} {value}; give another model"):
        imported(written(tmp_path, "llama", **{key: value}))


def test_ignored_keys_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(written(tmp_path, "llama", new_gate="on", another_gate=None, unsloth_fixed=True))
    assert "config.json: ignoring new_gate, as transformers does" in capsys.readouterr().err
    imported(written(tmp_path, "gpt2", resid_pdrop=0.1, embd_pdrop=0.0, attn_pdrop=0.0))
    assert "ignoring resid_pdrop 0.1; pretraining here has no dropout" in capsys.readouterr().err


MODELS = {
    "llama": LLAMA,
    "llama, wide heads": replace(LLAMA, kv_channels=12),
    "llama 3": LLAMA3,
    "qwen2": QWEN2,
    "qwen2, wide heads, scaled": replace(QWEN2, kv_channels=12, use_rope_scaling=True),
    "qwen3": QWEN3,
    "qwen3, odd hidden size": replace(QWEN3, hidden_size=36, kv_channels=4),
    "qwen3, default width": replace(QWEN3, kv_channels=0, untie_embeddings_and_output_weights=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_configuration_imports_as_the_same_model(name: str, tmp_path: Path) -> None:
    hf_model_config(MODELS[name], vocab_size=VOCAB_SIZE, eod_id=1).save_pretrained(tmp_path)
    assert imported(tmp_path) == replace(MODELS[name], ffn_hidden_size=MODELS[name].ffn_size)
