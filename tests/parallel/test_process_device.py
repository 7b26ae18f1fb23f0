"""Each process computes on one device that was chosen for a reason, or stops with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.config.parallel import DEVICE_VARIABLE, DeviceChoice
from pause_megatron.errors import EXIT_USER, UserError
from pause_megatron.parallel.launcher import detect_launch, export_launch, resolve_device_choice
from pause_megatron.parallel.process_device import (
    ProcessDevice,
    decide_device,
    device_of_local_processes,
    refuse_shared_gpus,
)
from pause_megatron.parallel.visible_gpus import VisibleGpus

UNUSABLE = VisibleGpus(count=0, evidence="this node has /dev/nvidia0", problem="the driver is too old; update it")
NO_GPU = VisibleGpus(count=0, problem="PyTorch is built without CUDA; install a build with CUDA")


def gpus(count: int) -> VisibleGpus:
    return VisibleGpus(count=count)


@pytest.mark.parametrize(
    ("choice", "visible", "local_rank", "local_world_size", "expected"),
    [
        ("auto", NO_GPU, 1, 2, "cpu"),
        ("auto", gpus(8), 5, 8, "cuda:5"),
        ("auto", gpus(8), 1, 2, "cuda:1"),
        ("auto", gpus(1), 0, 1, "cuda:0"),
        ("auto", gpus(1), 3, 4, "cuda:0"),  # srun --gpus-per-task=1: each task sees its own GPU as number 0
        ("cuda", gpus(2), 1, 2, "cuda:1"),
        ("cpu", gpus(8), 5, 8, "cpu"),
        ("cpu", UNUSABLE, 0, 1, "cpu"),
    ],
)
def test_device_follows_from_choice_gpus_and_rank(
    choice: DeviceChoice, visible: VisibleGpus, local_rank: int, local_world_size: int, expected: str
) -> None:
    found = decide_device(choice, visible, local_rank=local_rank, local_world_size=local_world_size)
    assert str(found) == expected


@pytest.mark.parametrize(
    ("choice", "visible", "local_world_size", "message"),
    [
        (
            "auto",
            UNUSABLE,
            1,
            "--device auto: this node has /dev/nvidia0, but the driver is too old; update it; or give",
        ),
        ("cuda", NO_GPU, 1, "--device cuda: PyTorch is built without CUDA; install a build with CUDA; or give"),
        ("auto", gpus(4), 8, "--device auto: 8 processes on this node see 4 GPUs; start 4 processes on each node, or"),
    ],
)
def test_a_process_without_a_usable_gpu_of_its_own_is_refused(
    choice: DeviceChoice, visible: VisibleGpus, local_world_size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        decide_device(choice, visible, local_rank=0, local_world_size=local_world_size)
    assert "\n" not in str(refusal.value)
    assert "--device cpu" in str(refusal.value)


@pytest.mark.parametrize(
    ("choice", "visible", "expected"),
    [("auto", NO_GPU, "cpu"), ("auto", gpus(1), "cpu"), ("auto", gpus(2), "cuda"), ("cuda", gpus(8), "cuda")],
)
def test_two_local_processes_use_gpus_only_if_each_gets_one(
    choice: DeviceChoice, visible: VisibleGpus, expected: str
) -> None:
    assert device_of_local_processes(choice, visible, 2) == expected


@pytest.mark.parametrize(
    ("choice", "visible", "message"),
    [
        ("cuda", gpus(1), "--device cuda: 2 processes need a GPU each, but this machine has 1; start at most 1, or"),
        ("cuda", NO_GPU, "--device cuda: PyTorch is built without CUDA"),
        ("auto", UNUSABLE, "--device auto: this node has /dev/nvidia0, but"),
    ],
)
def test_local_processes_without_the_gpus_that_were_asked_for_are_refused(
    choice: DeviceChoice, visible: VisibleGpus, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        device_of_local_processes(choice, visible, 2)


def test_variable_replaces_auto_only() -> None:
    assert resolve_device_choice("auto", {}) == "auto"
    assert resolve_device_choice("auto", {DEVICE_VARIABLE: "cuda"}) == "cuda"
    assert resolve_device_choice("cpu", {DEVICE_VARIABLE: "cuda"}) == "cpu"
    with pytest.raises(UserError, match=f"{DEVICE_VARIABLE} gpu: unknown device; set auto, cpu, cuda"):
        resolve_device_choice("auto", {DEVICE_VARIABLE: "gpu"})


def test_deepspeed_is_told_the_number_of_the_gpu_instead_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
    for name, value in {**variables, "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}.items():
        monkeypatch.setenv(name, value)
    launch = detect_launch()
    export_launch(launch)
    assert (os.environ["LOCAL_RANK"], os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]) == ("3", "3")
    export_launch(launch, gpu=0)
    assert (os.environ["LOCAL_RANK"], os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]) == ("0", "0")


H100 = "NVIDIA H100 80GB HBM3"


def test_two_ranks_with_the_same_gpu_are_refused() -> None:
    own = [ProcessDevice(name=H100, node="gpu01", gpu="GPU-1"), ProcessDevice(name=H100, node="gpu01", gpu="GPU-2")]
    refuse_shared_gpus(own)
    with pytest.raises(UserError, match="rank 1 on gpu01 and rank 2 on gpu01 share the GPU GPU-2; start one process"):
        refuse_shared_gpus([*own, own[1]])


def test_ranks_on_cpus_and_on_gpus_are_not_mixed() -> None:
    on_cpu = ProcessDevice(name="CPU (AMD EPYC)", node="gpu02")
    refuse_shared_gpus([on_cpu, on_cpu])
    with pytest.raises(UserError, match="--device: rank 1 on gpu02 computes on a CPU, but others on GPUs; give every"):
        refuse_shared_gpus([ProcessDevice(name=H100, node="gpu01", gpu="GPU-1"), on_cpu])


COMMANDS = """
import sys
from pause_megatron.cli.main import main
for device in ("auto", "cpu"):
    for words in ("finetune --task parity --output out", "evaluate --task parity --output out", "generate --prompt a"):
        print(main([*words.split(), "--model", "missing", "--device", device]))
"""


def test_commands_refuse_the_cpu_where_slurm_gave_gpus_unless_they_are_asked_to_use_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != DEVICE_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        env={**environment, "SLURM_JOB_GPUS": "0,1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(EXIT_USER)] * 6, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    refused, asked = errors[:3], errors[3:]
    assert all("Slurm gave this job GPUs (SLURM_JOB_GPUS=0,1), but" in line for line in refused)
    assert not any("--device" in line for line in asked)
