"""Fixed draws of ``make fuzz-layouts``, and mistakes that its comparison must find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.errors import UserError
from tests.quick import others_slow
from tests.training.layout_comparison import Fuzz, LayoutMismatchError
from tests.training.layout_draws import DATASETS, DEEPSPEED_FILES, PRECISIONS, Draw, Segment, draw_run
from tests.training.test_traps import do_not_reduce_shared_gradients

TP2_SP = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
TP2_PP2_SP = TP2_SP | {"pipeline_model_parallel_size": 2}
PP2_VP2 = {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}
FULL = {"recompute_granularity": "full", "recompute_num_layers": 2}
GPT2 = {"num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 48}
TIED = GPT2 | {"untie_embeddings_and_output_weights": False}
LLAMA = GPT2 | {"architecture": "llama", "num_query_groups": 2}
TRAINING = {
    "global_batch_size": 8,
    "rampup_batch_size": (),
    "train_iters": 4,
    "schedule": "constant",
    "warmup_fraction": 0.0,
    "validation_interval": 2,
    "validation_sequences": 9,
}

DRAWS = {
    "divided in every way, then partitioned and offloaded": Draw(
        model=TIED,
        data=("0.3", "document70", "0.7", "sequence90"),
        training=TRAINING,
        segments=(
            Segment(last_step=2, world_size=4, parallel=TP2_PP2_SP, bucket=3_000, async_save=True),
            Segment(last_step=4, world_size=2, deepspeed="zero3_bf16_offload", persistent=0),
        ),
    ),
    "interleaved and recomputed, then replicated": Draw(
        model=LLAMA | {"num_layers": 8},
        data=("every15",),
        training=TRAINING | {"rampup_batch_size": (4, 4, 8), "clip_grad": 0.1},
        segments=(
            Segment(last_step=3, world_size=2, parallel=PP2_VP2 | FULL, micro_batch_size=2, deepspeed="zero0_fp32"),
            Segment(last_step=4, world_size=2, parallel=TP2_SP, micro_batch_size=4, deepspeed="zero2_bf16"),
        ),
    ),
    "bf16": Draw(
        precision="bf16, gradients in fp32",
        model=GPT2,
        data=("document10",),
        training=TRAINING | {"seq_length": 31},
        segments=(
            Segment(last_step=1, world_size=2, deepspeed="zero3_bf16", persistent=500),
            Segment(last_step=4, world_size=2, parallel={"pipeline_model_parallel_size": 2}),
        ),
    ),
    "fp16": Draw(
        precision="fp16",
        model=TIED,
        data=("none",),
        training=TRAINING,
        segments=(Segment(last_step=4, world_size=2, parallel=TP2_SP, deepspeed="zero2_bf16_offload"),),
    ),
}
"""Draws with combinations that only few of the other tests have."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def fuzz(folder: Path) -> Iterator[Fuzz]:
    with Fuzz(folder) as fuzz:
        yield fuzz


@pytest.mark.parametrize("name", others_slow(DRAWS, list(DRAWS)[:3]))
def test_a_layout_gives_the_losses_and_weights_of_one_process(fuzz: Fuzz, name: str) -> None:
    fuzz.compare(DRAWS[name])  # raises


@pytest.mark.parametrize("precision", others_slow(PRECISIONS, ["fp32"]))
def test_a_missing_reduction_is_found(fuzz: Fuzz, precision: str) -> None:
    draw = Draw(
        precision=precision,
        model=GPT2,
        training=TRAINING,
        segments=(Segment(last_step=4, world_size=2, parallel=TP2_SP),),
    )
    with (
        Fuzz(fuzz.folder, mistake=do_not_reduce_shared_gradients) as mistaken,
        pytest.raises(LayoutMismatchError, match="differs from one process"),
    ):
        mistaken.compare(draw)


def test_a_layout_is_refused_before_processes_start(folder: Path, fuzz: Fuzz) -> None:
    draw = replace(
        DRAWS["bf16"], segments=(Segment(last_step=4, world_size=4, parallel=PP2_VP2, deepspeed="zero3_bf16"),)
    )
    fresh = Fuzz(folder)
    with pytest.raises(UserError, match="ZeRO-3 releases gradients and weights"):
        fresh.compare(draw)
    assert fresh.cpu_seconds == 0


def test_draws_repeat_and_reach_everything() -> None:
    draws = [draw_run(3, number) for number in range(600)]
    assert draws == [draw_run(3, number) for number in range(600)]
    assert draws[0] != draw_run(4, 0)
    segments = [segment for draw in draws for segment in draw.segments]
    assert {segment.deepspeed for segment in segments} == set(DEEPSPEED_FILES)
    assert {segment.world_size for segment in segments} == {1, 2, 3, 4}
    assert {draw.precision for draw in draws} == set(PRECISIONS)
    assert {part for draw in draws for part in draw.data} - {"0.3", "0.7"} == set(DATASETS)
    assert {len(draw.segments) for draw in draws} == {1, 2, 3}
    settings = {(name, value) for segment in segments for name, value in segment.parallel.items()}
    assert len(settings) == 3 + 4 + 2 + 1 + 2 + 2, sorted(settings, key=str)
