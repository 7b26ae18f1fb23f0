"""The plans in docs/costs.md equal those that the dry run prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.deepspeed import read_deepspeed_file
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.training import CheckpointConfig, TrainingConfig
from pause_megatron.costs.checkpoint_plan import Faults
from pause_megatron.costs.checkpoint_text import checkpoint_lines
from pause_megatron.costs.devices import H100_SXM
from pause_megatron.costs.plan import PlannedRun, plan_scale
from pause_megatron.costs.plan_text import GIB, Hardware, plan_lines

REPOSITORY = Path(__file__).parents[2]
FAULTS = Faults(mtbf_hours=50_000.0, save_seconds=0.0, restart_seconds=600.0)
"""The defaults of the dry run."""
DOCUMENT = (REPOSITORY / "docs" / "costs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "micro_batch_size", "first_line"),
    [({"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}, 2, "model "), ({}, 4, "parameters ")],
)
def test_documented_plan_equals_the_computed_one(flags: dict[str, Any], micro_batch_size: int, first_line: str) -> None:
    steps = 381_470
    training = TrainingConfig(train_iters=steps, micro_batch_size=micro_batch_size)
    run = PlannedRun(
        model=ModelConfig(**MODEL_PRESETS["1b"]),  # type: ignore[arg-type]
        parallel=ParallelConfig(**flags),
        training=training,
        deepspeed=read_deepspeed_file(REPOSITORY / "ds_configs" / "zero1_bf16.json"),
        vocab_size=32_256,
        seq_length=2048,
        samples=steps * training.global_batch_size,
    )
    hardware = Hardware(
        name=f"{H100_SXM.name} (assumed, no GPU on this machine)",
        peak_tflops=H100_SXM.peak_tflops("bf16"),
        memory_bytes=H100_SXM.memory_gib * GIB,
    )
    scales = {number: plan_scale(run, number) for number in (8, 64, 512)}
    lines = list(plan_lines(run, scales, hardware, mfu=0.4))
    begin = next(index for index, line in enumerate(lines) if line.startswith(first_line))
    assert "\n".join(lines[begin:]) in DOCUMENT
    if first_line == "model ":
        more = checkpoint_lines(run, scales, hardware, CheckpointConfig(), FAULTS, mfu=0.4)
        assert "\n".join([*lines[-1:], "", *more]) in DOCUMENT
