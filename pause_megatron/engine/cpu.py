"""DeepSpeed on CPUs: starts without a C++ compiler, and computes in fp16 without special instructions."""

import deepspeed.ops
import torch
from deepspeed.accelerator import get_accelerator


def let_deepspeed_use_any_cpu() -> None:
    """Remove two of DeepSpeed's requirements on the CPU. Does nothing if CUDA is available.

    At the first use of a CPU process group DeepSpeed compiles ``deepspeed_shm_comm``, a shared-memory all-reduce that
    only its inference engine calls. This takes half a minute on a new machine and fails without a C++ compiler.
    DeepSpeed also refuses fp16 on a CPU without fp16 instructions; PyTorch computes it (slowly) on every CPU.
    """
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        get_accelerator().is_fp16_supported = lambda: True
