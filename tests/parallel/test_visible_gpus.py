"""What a process learns about GPUs before it chooses its device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pause_megatron.errors import UserError
from pause_megatron.parallel.visible_gpus import (
    find_visible_gpus,
    names_of_gpus,
    oldest_driver,
    refuse_missing_kernels,
    signs_of_gpus,
)

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
"""Kernels of PyTorch 2.13 on PyPI."""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "0"}, ""),
        ({"SLURM_GPUS_ON_NODE": "4"}, "Slurm gave this job GPUs (SLURM_GPUS_ON_NODE=4)"),
        ({"SLURM_JOB_GPUS": "2", "CUDA_VISIBLE_DEVICES": ""}, "Slurm gave this job GPUs (SLURM_JOB_GPUS=2)"),
    ],
)
def test_gpus_of_a_slurm_job_are_a_sign_of_gpus(environment: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert signs_of_gpus(environment, devices=tmp_path) == expected


def test_device_files_are_a_sign_of_gpus_unless_all_are_hidden(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert signs_of_gpus({}, devices=tmp_path) == ""
    (tmp_path / "nvidia0").touch()
    assert signs_of_gpus({}, devices=tmp_path) == f"this node has {tmp_path}/nvidia0"
    assert signs_of_gpus({"CUDA_VISIBLE_DEVICES": "0"}, devices=tmp_path) != ""
    for value in ("", "-1"):
        assert signs_of_gpus({"CUDA_VISIBLE_DEVICES": value}, devices=tmp_path) == ""


def test_hidden_gpus_are_not_visible_and_the_reason_is_given() -> None:
    found = find_visible_gpus({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "0"})
    assert (found.count, found.problem) == (0, "CUDA_VISIBLE_DEVICES hides all GPUs; unset it")
    assert found.evidence


def test_the_reason_for_unusable_gpus_ends_with_a_fix() -> None:
    found = find_visible_gpus({"SLURM_JOB_GPUS": "0"})
    assert found.count == 0  # tests hide all GPUs
    if torch.version.cuda is None:
        assert found.problem == f"PyTorch {torch.__version__} is built without CUDA; install a build with CUDA"
    assert "\n" not in found.problem
    assert "; " in found.problem


@pytest.mark.parametrize(
    ("count", "environment", "expected"),
    [
        (0, {}, []),
        (2, {}, ["0", "1"]),
        (2, {"CUDA_VISIBLE_DEVICES": "3,5"}, ["3", "5"]),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-8f1a,-1,2"}, ["GPU-8f1a"]),  # CUDA ignores all after an invalid one
    ],
)
def test_each_gpu_has_the_name_that_shows_a_child_only_this_one(
    count: int, environment: dict[str, str], expected: list[str]
) -> None:
    assert names_of_gpus(count, environment) == expected


def test_cuda_13_needs_driver_580() -> None:
    assert (oldest_driver("13.0"), oldest_driver("12.8"), oldest_driver("99.0")) == (580, 525, None)


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [
        ((9, 0), WHEEL),
        ((8, 9), WHEEL),  # kernels for 8.6 run on an RTX 4090
        ((9, 0), ["sm_80", "compute_80"]),  # the driver compiles them
        ((9, 0), ["sm_90a"]),
        ((9, 4), ["gfx942"]),
    ],
)
def test_gpus_with_kernels_are_accepted(capability: tuple[int, int], architectures: list[str]) -> None:
    refuse_missing_kernels("a GPU", capability, architectures)


@pytest.mark.parametrize(("capability", "architectures"), [((7, 0), WHEEL), ((8, 0), ["sm_86"]), ((9, 0), ["sm_80"])])
def test_gpus_without_kernels_are_refused(capability: tuple[int, int], architectures: list[str]) -> None:
    with pytest.raises(UserError, match=r"--device cuda: PyTorch .* but not for Tesla V100 \(sm_.*; use a newer"):
        refuse_missing_kernels("Tesla V100", capability, architectures)
