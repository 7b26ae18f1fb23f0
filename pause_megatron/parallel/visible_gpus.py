"""GPUs that CUDA lets this process use, and the reason if the node has GPUs that it cannot use.

PyTorch alone does not tell the two cases apart: without GPUs and with a driver that is too old,
``torch.cuda.is_available()`` is False.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pause_megatron.errors import UserError, one_line

HIDDEN = ("", "-1")
"""Values of ``CUDA_VISIBLE_DEVICES`` that hide all GPUs on purpose."""
_SLURM_GPUS = {"SLURM_JOB_GPUS": "", "SLURM_STEP_GPUS": "", "SLURM_GPUS_ON_NODE": "0"}
"""Variables of a job with GPUs, and their values without any: the first two list numbers of GPUs, the last counts."""
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVER = r"\s(\d{3,}\.[\d.]+)"
_OLDEST_DRIVER = {12: 525, 13: 580}
"""Major version of CUDA to the oldest major version of the driver (CUDA's release notes, table "minor version
compatibility")."""


@dataclass(frozen=True, kw_only=True)
class VisibleGpus:
    """What a process knows about GPUs before it chooses its device."""

    count: int
    """GPUs that CUDA lets this process use."""
    evidence: str = ""
    """Sign that the node has GPUs although ``count`` is 0, for example "this node has /dev/nvidia0"; empty: none."""
    problem: str = ""
    """Why CUDA finds no GPU, and the fix; empty if it finds one."""


def find_visible_gpus(environment: Mapping[str, str] = os.environ) -> VisibleGpus:
    """Ask CUDA for the GPUs of this process, without a context on any of them."""
    hidden = environment.get("CUDA_VISIBLE_DEVICES") in HIDDEN
    if not hidden and torch.cuda.is_available():
        return VisibleGpus(count=torch.cuda.device_count())
    problem = "CUDA_VISIBLE_DEVICES hides all GPUs; unset it" if hidden else _problem(driver_version())
    return VisibleGpus(count=0, evidence=signs_of_gpus(environment), problem=problem)


def names_of_gpus(count: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return this process's ``count`` GPUs, each as the ``CUDA_VISIBLE_DEVICES`` that hides all others."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(count)])[:count]


def signs_of_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> str:
    """Return a sign that this node or job has GPUs; empty if there is none.

    Device files do not count if ``CUDA_VISIBLE_DEVICES`` hides all GPUs, because the user has chosen that. GPUs that
    Slurm has given to the job do.
    """
    for name, none in _SLURM_GPUS.items():
        if environment.get(name, none) != none:
            return f"Slurm gave this job GPUs ({name}={environment[name]})"
    files = sorted(devices.glob("nvidia[0-9]*"))
    if files and environment.get("CUDA_VISIBLE_DEVICES") not in HIDDEN:
        return f"this node has {files[0]}"
    return ""


def _problem(driver: str | None) -> str:
    """Return why CUDA finds no GPU, and the fix."""
    cuda = torch.version.cuda
    if not cuda and not torch.version.hip:
        return f"PyTorch {torch.__version__} is built without CUDA; install a build with CUDA"
    if driver and cuda and (oldest := oldest_driver(cuda)) and int(driver.partition(".")[0]) < oldest:
        return (
            f"the NVIDIA driver {driver} is too old for CUDA {cuda} of this PyTorch; update it to {oldest} or later, or"
            " install a build of PyTorch for an older CUDA"
        )
    try:
        torch.cuda.init()
        reason = "No CUDA GPUs are available"
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error)
    reason = re.split(r"(?<=\w)\. ", reason)[0].rstrip(".")  # without PyTorch's advice
    return (
        f"CUDA reports '{reason}'; give a container access to the GPUs (apptainer --nv, docker --gpus all), or repair"
        " the driver"
    )


def oldest_driver(cuda: str) -> int | None:
    """Return the oldest major version of NVIDIA's driver that runs CUDA ``cuda``, for example 580 for "13.0"."""
    return _OLDEST_DRIVER.get(int(cuda.partition(".")[0]))


def driver_version() -> str | None:
    """Return the version of this node's NVIDIA driver, for example "580.65.06"; None without one."""
    try:
        if found := re.search(_DRIVER, _DRIVER_FILE.read_text(encoding="utf-8")):
            return found[1]
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def refuse_missing_kernels(name: str, capability: tuple[int, int], architectures: list[str]) -> None:
    """Raise :class:`UserError` if PyTorch has no kernels for a GPU.

    ``architectures`` are those of the build (``torch.cuda.get_arch_list()``): ``sm_80`` runs on 8.0 and later minor
    versions of 8, ``compute_90`` is compiled by the driver for every later GPU.
    """
    major, minor = capability
    for architecture in architectures:
        kind, _, digits = architecture.rstrip("abcdef").partition("_")
        if not digits.isdigit():
            return  # AMD's names, for example gfx942
        has = divmod(int(digits), 10)
        if (kind == "sm" and has[0] == major and has[1] <= minor) or (kind == "compute" and has <= capability):
            return
    raise UserError(
        f"--device cuda: PyTorch {torch.__version__} has kernels for {' '.join(architectures)}, but not for {name}"
        f" (sm_{major}{minor}); use a newer GPU, install a build of PyTorch with such kernels, or give --device cpu"
    )
