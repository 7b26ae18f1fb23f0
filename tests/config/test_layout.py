"""Layouts, batches and DeepSpeed files: unsupported combinations are refused with the flag to change."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.deepspeed import OWNED_KEYS, DeepSpeedFile, deepspeed_file, read_deepspeed_file
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import ParallelConfig, check_batches, resolve_layout
from pause_megatron.config.training import TrainingConfig
from pause_megatron.errors import UserError

MODEL = ModelConfig(num_layers=4, hidden_size=64, num_attention_heads=8, max_position_embeddings=64)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)


def deepspeed(stage: int, offload: str = "", **values: Any) -> DeepSpeedFile:
    """A DeepSpeed file with one ZeRO stage, which offloads ``offload`` if given."""
    zero = {"stage": stage, **({offload: {"device": "cpu"}} if offload else {})}
    return deepspeed_file(Path("file.json"), {"zero_optimization": zero, **values})


TP2_SP = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
PP2_VP2 = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
FP32_SUMS = {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}


@pytest.mark.parametrize(
    ("parallel", "world_size", "file", "model", "message"),
    [
        (ParallelConfig(tensor_model_parallel_size=2), 3, deepspeed(1), MODEL, "start a multiple of 2 processes"),
        (PP2, 2, deepspeed(2), MODEL, "ZeRO-2 .*or --pipeline-model-parallel-size 1"),
        (PP2, 2, deepspeed(3), MODEL, "gradients and weights .*or --pipeline-model-parallel-size 1"),
        (ParallelConfig(), 1, deepspeed(4), MODEL, "unknown ZeRO stage; set 0, 1, 2 or 3 in file.json"),
        (ParallelConfig(), 1, deepspeed(0, "offload_optimizer"), MODEL, "use ZeRO-1 or above"),
        (ParallelConfig(), 1, deepspeed(2, "offload_param"), MODEL, "offload_param requires ZeRO-3"),
        (ParallelConfig(compile_layers="always"), 1, deepspeed(3), MODEL, "use --compile-layers auto"),
        (ParallelConfig(), 1, deepspeed(2, "offload_optimizer", **FP32_SUMS), MODEL, "remove grad_accum_dtype"),
        (ParallelConfig(virtual_pipeline_model_parallel_size=2), 1, deepspeed(1), MODEL, "needs pipeline stages"),
        (PP2, 2, deepspeed(1), replace(MODEL, num_layers=3), "--num-layers 3 is not a multiple of 2"),
        (
            ParallelConfig(tensor_model_parallel_size=4),
            4,
            deepspeed(1),
            replace(MODEL, num_query_groups=2),
            "not a multiple of --tensor-model-parallel-size 4",
        ),
        (
            ParallelConfig(recompute_granularity="full", recompute_num_layers=3),
            1,
            deepspeed(1),
            MODEL,
            "--recompute-num-layers 3 does not divide the 4 layers",
        ),
    ],
)
def test_unsupported_layout_is_refused(
    parallel: ParallelConfig, world_size: int, file: DeepSpeedFile, model: ModelConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve_layout(parallel, world_size=world_size, model=model, vocab_size=250, deepspeed=file)


@pytest.mark.parametrize(
    ("parallel", "num_microbatches", "message"),
    [
        (PP2_VP2, 3, "needs a multiple of 2 microbatches per step"),
        (TP2_SP, 2, "sequences of 63 tokens cannot be split"),
    ],
)
def test_layout_that_cannot_compute_the_batch_is_refused(
    parallel: ParallelConfig, num_microbatches: int, message: str
) -> None:
    layout = resolve_layout(parallel, world_size=2, model=MODEL, vocab_size=250, deepspeed=deepspeed(1))
    check_batches(layout, deepspeed(1), num_microbatches=2, seq_length=64)
    with pytest.raises(UserError, match=message):
        check_batches(layout, deepspeed(1), num_microbatches=num_microbatches, seq_length=63)


def test_size_below_one_is_reported_with_its_flag() -> None:
    with pytest.raises(UserError, match="--tensor-model-parallel-size 0: must be at least 1"):
        ParallelConfig(tensor_model_parallel_size=0)


def test_data_parallelism_uses_the_remaining_ranks() -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    layout = resolve_layout(parallel, world_size=16, model=MODEL, vocab_size=250, deepspeed=deepspeed(1))
    assert (layout.tp, layout.pp, layout.dp, layout.world_size) == (2, 2, 4, 16)


@pytest.mark.parametrize(("preset", "parameters"), [("130m", 136_237_056), ("1b", 1_345_085_440)])
def test_presets_have_the_papers_parameter_counts(preset: str, parameters: int) -> None:
    assert ModelConfig(**MODEL_PRESETS[preset]).num_parameters(vocab_size=32_297) == parameters  # type: ignore[arg-type]


@pytest.mark.parametrize("size", ["130m", "1b"])
def test_llama_presets_are_about_as_large(size: str) -> None:
    gpt2, llama = (ModelConfig(**MODEL_PRESETS[name]) for name in (size, f"llama-{size}"))  # type: ignore[arg-type]
    assert abs(llama.num_parameters(32_297) / gpt2.num_parameters(32_297) - 1) < 0.02


def test_padded_vocabulary_does_not_depend_on_the_layout() -> None:
    assert padded_vocab_size(250) == 256
    assert padded_vocab_size(256) == 256


def test_batch_that_does_not_divide_is_refused() -> None:
    training = TrainingConfig(train_iters=1, global_batch_size=12, micro_batch_size=4)
    assert training.num_microbatches(3, 12) == 1
    with pytest.raises(UserError, match="--global-batch-size 12 is not a multiple of --micro-batch-size 4 x 2"):
        training.num_microbatches(2, 12)


def test_ramp_up_that_does_not_divide_is_refused() -> None:
    training = TrainingConfig(train_iters=1, global_batch_size=16, micro_batch_size=2, rampup_batch_size=(4, 4, 100))
    assert training.batch_sizes() == [4, 8, 12, 16]
    with pytest.raises(UserError, match=r"--rampup-batch-size: a batch of 4 is not a multiple of .* 2 x 4"):
        training.num_microbatches(4, 4)
    with pytest.raises(UserError, match="START must reach --global-batch-size 16 in steps of INCREMENT"):
        replace(training, rampup_batch_size=(4, 5, 100))
    with pytest.raises(UserError, match="expected START INCREMENT SAMPLES"):
        replace(training, rampup_batch_size=(4, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "cannot both be enabled"),
        ({"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp16"}}, "use 'bf16', .* or 'fp32'"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "'nvme'; use 'cpu' or 'none'"),
    ],
)
def test_contradictory_deepspeed_file_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        deepspeed_file(Path("file.json"), values)


@pytest.mark.parametrize("key", OWNED_KEYS)
def test_deepspeed_file_must_not_set_keys_that_flags_decide(tmp_path: Path, key: str) -> None:
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
        stage, precision, *more = file.stem.split("_")
        found = read_deepspeed_file(file)
        assert f"zero{found.zero_stage}" == stage
        assert found.precision == precision
        sums_in_fp32 = found.zero_stage <= 1 and precision == "bf16" and not more
        assert found.grad_dtype == ("fp32" if sums_in_fp32 else precision)
        assert found.offload_optimizer == ("offload" in more)
        assert found.offload_parameters == ("offload" in more and found.zero_stage == 3)


def test_every_deepspeed_file_of_the_repository_is_described() -> None:
    folder = Path(__file__).parents[2] / "ds_configs"
    described = re.findall(r"`(\w+\.json)`", (folder / "README.md").read_text())
    assert sorted(described) == sorted(file.name for file in folder.glob("*.json"))
