"""A run that resumes under its own layout matches the uninterrupted run to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.training import CheckpointConfig
from tests.checkpoint.loops import Loop, run_loops
from tests.distributed import run_distributed
from tests.quick import others_slow
from tests.training.runs import Run

SAVED, END = 4, 6
SAVING = CheckpointConfig(save_interval=SAVED, async_save=True)
OFFLOADED = {"offload_optimizer": {"device": "cpu"}}
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "bf16, fp32 gradients": {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    # The first steps overflow, and the scale grows after every two that do not.
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 20, "loss_scale_window": 2, "hysteresis": 1}},
}
ZERO: dict[str, tuple[int, dict[str, Any], list[str]]] = {
    "ZeRO-0": (0, {}, list(PRECISIONS)),
    "ZeRO-1": (1, {}, list(PRECISIONS)),
    "ZeRO-2": (2, {}, list(PRECISIONS)),
    "ZeRO-3": (3, {}, list(PRECISIONS)),
    "ZeRO-3 in parts": (3, {"sub_group_size": 30_000}, ["bf16"]),
    "ZeRO-1 offloaded": (1, OFFLOADED, ["bf16", "fp16"]),
    "ZeRO-2 offloaded": (2, OFFLOADED, ["bf16", "fp16"]),
    "ZeRO-3 offloaded": (3, OFFLOADED, ["bf16", "fp16"]),
    "ZeRO-3 all offloaded": (3, {**OFFLOADED, "offload_param": {"device": "cpu"}}, ["fp32", "bf16"]),
}
"""ZeRO stage, its DeepSpeed settings, and the precisions tested with them."""


@pytest.mark.parametrize("zero", others_slow(ZERO, quick=("ZeRO-1", "ZeRO-2 offloaded", "ZeRO-3 in parts")))
def test_resume_is_bit_exact(zero: str, tmp_path: Path) -> None:
    stage, settings, precisions = ZERO[zero]
    loops = []
    for precision in precisions:
        run = Run(zero_stage=stage, deepspeed={**PRECISIONS[precision], "zero_optimization": settings}, last_step=END)
        whole = Loop(run=run, folder=tmp_path / precision, checkpoint=SAVING)
        # With another seed, everything that is not loaded differs.
        loops += [whole, replace(whole, run=replace(run, seed=99))]
    found = iter(run_distributed(run_loops, 2, loops)[0])
    for precision in precisions:
        uninterrupted, resumed = next(found), next(found)
        assert resumed.resumed == SAVED
        assert resumed.curve == uninterrupted.curve[SAVED:], precision
        assert resumed.loss_scaler == uninterrupted.loss_scaler
        assert (resumed.loss_scaler is not None) == (precision == "fp16")
