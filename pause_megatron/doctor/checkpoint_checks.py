"""Checks of checkpoints: one that several ranks wrote resumes on one rank, and on the CPU, with the same losses."""

import shutil
from typing import Any

from pause_megatron.doctor.check import Figures, Place
from pause_megatron.doctor.small_runs import FP32_TOLERANCE, STEPS, compare, run_config, train
from pause_megatron.parallel.launcher import detect_launch

_SAVED = "saved"
_SAVED_STEPS = 3


def save(place: Place) -> Figures:
    """Train a part of the reference's steps, tensor-parallel if there are two ranks, and save in the background."""
    ranks = detect_launch().world_size
    settings: dict[str, Any] = {
        "tensor_model_parallel_size": 2 - ranks % 2,
        "async_save": True,
        "compile_layers": "never",
    }
    train([run_config(place, _SAVED, train_iters=_SAVED_STEPS, **settings)])
    return {"found": f"{ranks} ranks saved"}


def load(place: Place) -> Figures:
    """Resume from the checkpoint on one rank, and compare the remaining steps with the reference."""
    return _load(place, "loaded")


def load_on_cpu(place: Place) -> Figures:
    """The same on the CPU."""
    return _load(place, "loaded-cpu")


def _load(place: Place, name: str) -> Figures:
    config = run_config(place, name, compile_layers="never")
    shutil.copytree(config.output.with_name(_SAVED), config.output)
    train([config])
    figures = compare(place, config, FP32_TOLERANCE, first_step=_SAVED_STEPS + 1)
    steps = f"steps {_SAVED_STEPS + 1} to {STEPS}"
    return {"found": f"{steps} differ by at most {figures['loss_difference']:.1e}", **figures}
