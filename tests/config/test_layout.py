"""Layouts that cannot work are refused with the flag to change, before any process group exists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.config.deepspeed import OWNED_KEYS, read_deepspeed_file
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.config.training import TrainingConfig
from pause_megatron.errors import UserError

MODEL = ModelConfig(num_layers=4, hidden_size=64, num_attention_heads=8, max_position_embeddings=64)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)


@pytest.mark.parametrize(
    ("parallel", "world_size", "zero_stage", "model", "message"),
    [
        (ParallelConfig(tensor_model_parallel_size=2), 3, 1, MODEL, "start a multiple of 2 processes"),
        (ParallelConfig(), 1, 0, MODEL, "use a ZeRO-1 file"),
        (PP2, 2, 2, MODEL, "or --pipeline-model-parallel-size 1"),
        (PP2, 2, 3, MODEL, "or --pipeline-model-parallel-size 1"),
        (ParallelConfig(), 1, 4, MODEL, "no such ZeRO stage"),
        (ParallelConfig(virtual_pipeline_model_parallel_size=2), 1, 1, MODEL, "needs pipeline stages"),
        (PP2, 2, 1, replace(MODEL, num_layers=3), "--num-layers 3 is not a multiple of 2"),
        (
            ParallelConfig(tensor_model_parallel_size=4),
            4,
            1,
            replace(MODEL, num_query_groups=2),
            "not a multiple of --tensor-model-parallel-size 4",
        ),
        (
            ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
            2,
            2,
            MODEL,
            "leave --sequence-parallel off",
        ),
    ],
)
def test_impossible_layout_is_refused(
    parallel: ParallelConfig, world_size: int, zero_stage: int, model: ModelConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve_layout(parallel, world_size=world_size, model=model, vocab_size=250, zero_stage=zero_stage)


def test_sizes_below_one_name_their_flag() -> None:
    with pytest.raises(UserError, match="--tensor-model-parallel-size 0: must be at least 1"):
        ParallelConfig(tensor_model_parallel_size=0)


def test_data_parallelism_takes_the_processes_that_are_left() -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    layout = resolve_layout(parallel, world_size=16, model=MODEL, vocab_size=250, zero_stage=1)
    assert (layout.tp, layout.pp, layout.dp, layout.world_size) == (2, 2, 4, 16)


@pytest.mark.parametrize(("preset", "parameters"), [("130m", 136_237_056), ("1b", 1_345_085_440)])
def test_presets_have_the_papers_parameter_counts(preset: str, parameters: int) -> None:
    assert ModelConfig(**MODEL_PRESETS[preset]).num_parameters(vocab_size=32_297) == parameters  # type: ignore[arg-type]


def test_padded_vocabulary_does_not_depend_on_the_layout() -> None:
    assert padded_vocab_size(250) == 256
    assert padded_vocab_size(256) == 256


def test_batch_that_does_not_divide_is_refused() -> None:
    training = TrainingConfig(train_iters=1, global_batch_size=12, micro_batch_size=4)
    assert training.num_microbatches(3) == 1
    with pytest.raises(UserError, match="--global-batch-size 12 is not a multiple of --micro-batch-size 4 x 2"):
        training.num_microbatches(2)


@pytest.mark.parametrize("key", OWNED_KEYS)
def test_deepspeed_file_must_not_set_what_a_flag_decides(tmp_path: Path, key: str) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 1}, key: 1}))
    with pytest.raises(UserError, match=f"remove '{key}'"):
        read_deepspeed_file(file)


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[]", "expected a JSON object")])
def test_broken_deepspeed_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "zero.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_deepspeed_file(file)


def test_every_deepspeed_file_of_the_repository_is_valid() -> None:
    files = sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json"))
    assert files
    for file in files:
        stage, precision = file.stem.split("_")
        found = read_deepspeed_file(file)
        assert f"zero{found.zero_stage}" == stage
        assert found.precision == precision
