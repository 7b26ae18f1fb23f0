"""DeepSpeed's accelerator: the device of this process, and never one that DeepSpeed finds by itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pause_megatron.parallel.process_device import device, likely_device_type


@contextmanager
def accelerator_by_name() -> Iterator[None]:
    """Import DeepSpeed in this block: it takes the accelerator by its name, and CUDA is not asked for GPUs.

    Otherwise a fork of a process that has only imported DeepSpeed could not use a GPU.
    """
    settings = {"DS_ACCELERATOR": likely_device_type(), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def let_deepspeed_use_own_device() -> None:
    """Make this process's device DeepSpeed's accelerator, and remove two of DeepSpeed's requirements on the CPU.

    At the first use of a CPU process group DeepSpeed compiles ``deepspeed_shm_comm``, a shared-memory all-reduce that
    only its inference engine calls. This takes half a minute on a new machine and fails without a C++ compiler.
    DeepSpeed also refuses fp16 on a CPU without fp16 instructions; PyTorch computes it (slowly) on every CPU.
    """
    import deepspeed.ops
    from deepspeed.accelerator import cpu_accelerator, cuda_accelerator, get_accelerator, set_accelerator

    on_cpu = device().type == "cpu"
    if get_accelerator().device_name() != device().type:
        set_accelerator(cpu_accelerator.CPU_Accelerator() if on_cpu else cuda_accelerator.CUDA_Accelerator())
    if on_cpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        get_accelerator().is_fp16_supported = lambda: True
