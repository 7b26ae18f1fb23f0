"""Device of this process: a GPU of its own, or the CPU.

Each process chooses once, before CUDA starts. A visible GPU does not decide alone: two processes may see the same one,
and a process that must compute on the CPU, such as one of a demo, may run next to GPUs. A process on the CPU hides all
GPUs from itself, so that no library finds one and puts tensors there.
"""

import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pause_megatron.config.parallel import DeviceChoice
from pause_megatron.errors import UserError
from pause_megatron.parallel import collectives
from pause_megatron.parallel.launcher import Launch, resolve_device_choice
from pause_megatron.parallel.visible_gpus import VisibleGpus, find_visible_gpus, refuse_missing_kernels

CPU = torch.device("cpu")

_chosen: torch.device | None = None


def device() -> torch.device:
    """Return the device of this process; a process that has not chosen one is the only one of a run."""
    return _chosen or choose_device()


def likely_device_type() -> str:
    """Return the type of this process's device, cpu or cuda; a guess that does not ask CUDA if none was chosen yet."""
    if _chosen is not None:
        return _chosen.type
    has_cuda = torch.version.cuda or torch.version.hip
    return "cuda" if has_cuda and resolve_device_choice("auto") != "cpu" else "cpu"


def choose_device(
    choice: DeviceChoice = "auto", launch: Launch | None = None, *, tensor_parallel: bool = False
) -> torch.device:
    """Choose this process's device, and make it the current one; later calls return it again.

    Without ``launch`` the process is the only one of a run. Call it before any code that asks for GPUs. With
    ``tensor_parallel``, CUDA has one hardware queue: collectives then start in the order of their launch and overlap
    with matrix products, which Megatron-core relies on.

    Raises :class:`UserError` like :func:`decide_device`, and for a GPU that this PyTorch cannot use.
    """
    global _chosen
    if _chosen is None:
        if tensor_parallel:
            os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # CUDA reads it when it starts
        choice = resolve_device_choice(choice)
        found = VisibleGpus(count=0) if choice == "cpu" else find_visible_gpus()
        rank, size = (launch.local_rank, launch.local_world_size) if launch else (0, 1)
        chosen = decide_device(choice, found, local_rank=rank, local_world_size=size)
        if chosen.type == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        else:
            _start_gpu(chosen)
        _chosen = chosen
    assert choice in ("auto", _chosen.type), f"{choice} was asked for, but this process computes on {_chosen} already"
    return _chosen


def decide_device(choice: DeviceChoice, gpus: VisibleGpus, *, local_rank: int, local_world_size: int) -> torch.device:
    """Return the device of the process ``local_rank`` of the ``local_world_size`` processes on its node.

    A process takes the GPU with its local rank. If it sees exactly one GPU, it takes that one: launchers can give each
    process its own (``srun --gpus-per-task=1``). Whether two processes share it shows only when they are connected
    (:func:`refuse_shared_gpus`).

    Raises :class:`UserError` if GPUs are asked for or are on this node but cannot be used, or if the node has several
    GPUs but more processes.
    """
    if choice == "cpu":
        return CPU
    if gpus.count == 0:
        if choice == "auto" and not gpus.evidence:
            return CPU
        found = f"{gpus.evidence}, but " if gpus.evidence else ""
        raise UserError(f"--device {choice}: {found}{gpus.problem}; or give --device cpu to compute on the CPU")
    if gpus.count >= local_world_size:
        return torch.device("cuda", local_rank)
    if gpus.count == 1:
        return torch.device("cuda", 0)
    raise UserError(
        f"--device {choice}: {local_world_size} processes on this node see {gpus.count} GPUs; start {gpus.count}"
        " processes on each node, or give --device cpu"
    )


def device_of_local_processes(choice: DeviceChoice, gpus: VisibleGpus, count: int) -> DeviceChoice:
    """Return the device of ``count`` processes that this process, which sees ``gpus``, starts on its machine.

    With "auto" they compute on the CPU unless each gets its own GPU. Raises :class:`UserError` for "cuda" with fewer
    GPUs, and if this machine has GPUs that cannot be used.
    """
    if choice == "auto" and 0 < gpus.count < count:
        return "cpu"
    if choice == "cuda" and 0 < gpus.count < count:
        raise UserError(
            f"--device cuda: {count} processes need a GPU each, but this machine has {gpus.count}; start at most"
            f" {gpus.count}, or give --device cpu"
        )
    return "cpu" if decide_device(choice, gpus, local_rank=0, local_world_size=count) == CPU else "cuda"


def _start_gpu(gpu: torch.device) -> None:
    try:
        torch.cuda.set_device(gpu)
        name, capability = torch.cuda.get_device_name(gpu), torch.cuda.get_device_capability(gpu)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device cuda: {gpu} does not start ({reason}); check it with nvidia-smi, or give --device cpu"
        ) from error
    refuse_missing_kernels(name, capability, torch.cuda.get_arch_list())


@dataclass(frozen=True, kw_only=True)
class ProcessDevice:
    """The device of one process of a run."""

    name: str
    """Name of the GPU, or "CPU" with the processor's name."""
    node: str
    """Host name."""
    gpu: str = ""
    """Unique identity of the GPU; empty for a CPU."""


def describe_device() -> ProcessDevice:
    """Return this process's device."""
    if device().type == "cpu":
        return ProcessDevice(name=f"CPU ({_processor_name()})", node=socket.gethostname())
    properties = torch.cuda.get_device_properties(device())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    part = f" {visible}" if visible.startswith("MIG-") else ""  # parts of one GPU may have the same UUID
    return ProcessDevice(name=properties.name, node=socket.gethostname(), gpu=f"{properties.uuid}{part}")


def gather_devices() -> list[ProcessDevice]:
    """All-gather: return the device of every rank. Every rank raises the errors of :func:`refuse_shared_gpus`."""
    found = collectives.gather_from_ranks(describe_device(), ProcessDevice)
    refuse_shared_gpus(found)
    return found


def refuse_shared_gpus(devices: Sequence[ProcessDevice]) -> None:
    """Raise :class:`UserError` if two ranks of ``devices`` have the same GPU, or if only some have a GPU."""
    on_cpu = [rank for rank, item in enumerate(devices) if not item.gpu]
    if on_cpu and len(on_cpu) < len(devices):
        raise UserError(
            f"--device: rank {on_cpu[0]} on {devices[on_cpu[0]].node} computes on a CPU, but others on GPUs; give every"
            " task a GPU, or all of them --device cpu"
        )
    for gpu, count in Counter(item.gpu for item in devices if item.gpu).items():
        if count > 1:
            sharing = " and ".join(
                f"rank {rank} on {item.node}" for rank, item in enumerate(devices) if item.gpu == gpu
            )
            raise UserError(
                f"--device cuda: {sharing} share the GPU {gpu}; start one process for each GPU, or give each its own,"
                " for example with srun --gpus-per-task=1"
            )


def _processor_name() -> str:
    """Return the name of the processor, for example "AMD EPYC 7B13"; its architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, os.uname().machine)
