"""Plans: the effect of the number of devices, and the messages for impossible ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.deepspeed import deepspeed_file
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.training import TrainingConfig
from pause_megatron.costs.plan import PlannedRun, ScalePlan, advice, plan_scale
from pause_megatron.costs.plan_text import GIB, Hardware, plan_lines
from pause_megatron.errors import UserError

REFUSED = "--global-batch-size 256 is not a multiple of --micro-batch-size 2 x 512 data-parallel ranks"
TP2_PP2 = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)


def bf16(**zero: Any) -> Any:
    return deepspeed_file(Path("test.json"), {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1, **zero}})


RUN = PlannedRun(
    model=ModelConfig(**MODEL_PRESETS["1b"]),  # type: ignore[arg-type]
    parallel=ParallelConfig(),
    training=TrainingConfig(train_iters=1000, micro_batch_size=2),
    deepspeed=bf16(),
    vocab_size=32_256,
    seq_length=2048,
    samples=256_000,
)


def planned(run: PlannedRun, num_gpus: int) -> ScalePlan:
    scale = plan_scale(run, num_gpus)
    assert isinstance(scale, ScalePlan), scale
    return scale


def test_twice_the_devices_take_half_the_time_and_half_of_the_optimizer_state() -> None:
    eight, sixteen = planned(RUN, 8), planned(RUN, 16)
    times = [scale.seconds(peak_tflops=989, mfu=0.4) for scale in (eight, sixteen)]
    assert times[0] == pytest.approx(2 * times[1])
    states = [scale.worst.states for scale in (eight, sixteen)]
    assert states[0].optimizer == 2 * states[1].optimizer
    assert states[0].weights == states[1].weights


def test_a_pipeline_waits_while_it_fills_and_empties() -> None:
    single, staged = planned(RUN, 64), planned(replace(RUN, parallel=TP2_PP2), 64)
    assert (staged.layout.dp, staged.num_microbatches) == (16, 8)
    assert staged.waiting == pytest.approx(1 / 9)
    chunks = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=4)
    assert planned(replace(RUN, parallel=chunks), 32).waiting == pytest.approx(1 / 33)
    ratio = staged.seconds(peak_tflops=989, mfu=0.4) / single.seconds(peak_tflops=989, mfu=0.4)
    assert ratio == pytest.approx(9 / 8)


def test_recomputing_layers_costs_up_to_a_third_more_time() -> None:
    full = ParallelConfig(recompute_granularity="full")
    plain, recomputing = (planned(replace(RUN, parallel=each), 8) for each in (ParallelConfig(), full))
    ratio = recomputing.seconds(peak_tflops=989, mfu=0.4) / plain.seconds(peak_tflops=989, mfu=0.4)
    assert 1.3 < ratio < 4 / 3


@pytest.mark.parametrize(
    ("num_gpus", "run", "reason"),
    [
        (6, replace(RUN, parallel=TP2_PP2), "start a multiple of 4 processes"),
        (512, RUN, REFUSED),
        (8, replace(RUN, parallel=TP2_PP2, deepspeed=bf16(stage=3)), "or --pipeline-model-parallel-size 1"),
    ],
)
def test_impossible_numbers_of_devices_are_explained(num_gpus: int, run: PlannedRun, reason: str) -> None:
    scale = plan_scale(run, num_gpus)
    assert isinstance(scale, UserError)
    assert reason in str(scale)


def test_every_batch_of_a_ramp_up_must_divide() -> None:
    training = TrainingConfig(train_iters=10, micro_batch_size=2, rampup_batch_size=(32, 32, 1000))
    assert isinstance(plan_scale(replace(RUN, training=training), 16), ScalePlan)
    refused = plan_scale(replace(RUN, training=training), 32)
    assert isinstance(refused, UserError)
    assert "--rampup-batch-size: a batch of 32" in str(refused)


def test_advice_starts_with_the_largest_part_of_memory() -> None:
    wide = planned(replace(RUN, training=replace(RUN.training, micro_batch_size=32)), 8)
    assert advice(wide)[:2] == ["a smaller --micro-batch-size", "--recompute-granularity selective"]
    narrow = planned(replace(RUN, training=replace(RUN.training, micro_batch_size=1), deepspeed=bf16(stage=0)), 8)
    assert advice(narrow)[0] == "a ZeRO-1 file for --deepspeed"


@pytest.mark.parametrize(
    "flags",
    [
        {"recompute_granularity": "selective"},
        {"recompute_granularity": "full"},
        {"tensor_model_parallel_size": 2},
        {"tensor_model_parallel_size": 2, "sequence_parallel": True},
        {"pipeline_model_parallel_size": 2},
    ],
)
def test_advised_flags_lower_memory(flags: dict[str, Any]) -> None:
    wide = replace(RUN, training=replace(RUN.training, micro_batch_size=8))
    assert planned(replace(wide, parallel=ParallelConfig(**flags)), 8).worst.total < planned(wide, 8).worst.total


def lines(run: PlannedRun, numbers: list[int], hardware: Hardware) -> list[str]:
    return list(plan_lines(run, {number: plan_scale(run, number) for number in numbers}, hardware, mfu=0.4))


def time_rows(run: PlannedRun, numbers: list[int], hardware: Hardware) -> list[list[str]]:
    """Cells of the table of times."""
    shown = lines(run, numbers, hardware)
    heading = next(index for index, line in enumerate(shown) if "tokens/s" in line)
    return [line.split() for line in shown[heading + 1 :] if line]


def test_plan_that_does_not_fit_warns_with_advice() -> None:
    wide = replace(RUN, training=replace(RUN.training, micro_batch_size=16))
    fitting = Hardware(name="large", peak_tflops=989, memory_bytes=141 * GIB)
    small = Hardware(name="small", peak_tflops=312, memory_bytes=40 * GIB)
    assert not any("warning" in line for line in lines(wide, [8], fitting))
    [warning] = [line for line in lines(wide, [8], small) if "warning" in line]
    assert "8 GPUs: needs 57.7 GiB, but about 36 of a device's 40 GiB are usable; try" in warning
    assert "--recompute-granularity selective" in warning


def test_impossible_number_has_a_row_in_the_table() -> None:
    hardware = Hardware(name="H100 SXM", peak_tflops=989, memory_bytes=80 * GIB)
    assert time_rows(RUN, [8, 512], hardware) == [
        ["8", "8", "16", "0.0%", "357,521", "0.017", "3.26"],
        ["512", "no:", *REFUSED.split()],
    ]


def test_an_unknown_device_gives_no_time() -> None:
    unknown = Hardware(name="a GPU of next year", peak_tflops=None, memory_bytes=None)
    assert time_rows(RUN, [8], unknown) == [["8", "8", "16", "0.0%", "?", "?", "?"]]
