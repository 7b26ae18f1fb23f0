"""Peak rates and memory of devices by their datasheets.

Rates are for dense matrix products with sums in fp32, as PyTorch computes them. Datasheets also print twice as much for
sparse products, and for consumer cards twice as much for sums in fp16. fp32 excludes TF32, which PyTorch disables by
default. ``docs/costs.md`` cites the source of every figure.
"""

import re
from dataclasses import dataclass

from pause_megatron.config.deepspeed import Precision


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of device."""

    name: str
    reported: str
    """Regular expression for the complete ``torch.cuda.get_device_name()`` without the vendor."""
    memory_gib: int
    """Nominal memory in GiB; programs find one to eight percent less."""
    half: float
    """Peak in bf16 and fp16, TFLOP/s."""
    single: float
    """Peak in fp32, TFLOP/s."""
    has_bf16: bool = True
    """Whether bf16 is as fast as fp16; otherwise the bf16 rate is unknown."""

    def peak_tflops(self, precision: Precision) -> float | None:
        """Return the peak rate in TFLOP/s; None if no datasheet gives it."""
        if precision == "fp32":
            return self.single
        return self.half if self.has_bf16 or precision == "fp16" else None


H100_SXM = Device(name="H100 SXM", reported=r"H100 80GB HBM3", memory_gib=80, half=989, single=67)
"""Assumed for plans on a machine without GPUs."""
DEVICES = (  # PyTorch's builds on PyPI have no kernels for GPUs before the T4, such as the V100
    H100_SXM,
    Device(name="H100 PCIe", reported=r"H100 PCIe", memory_gib=80, half=756, single=51),
    Device(name="H100 NVL", reported=r"H100 NVL", memory_gib=94, half=835, single=60),
    Device(name="GH200", reported=r"GH200 480GB", memory_gib=96, half=989, single=67),
    Device(name="H200", reported=r"H200", memory_gib=141, half=989, single=67),
    Device(name="H200 NVL", reported=r"H200 NVL", memory_gib=141, half=835, single=60),
    Device(name="B200", reported=r"B200", memory_gib=180, half=2250, single=80),
    Device(name="A100 40 GB", reported=r"A100-(SXM4|PCIE)-40GB", memory_gib=40, half=312, single=19.5),
    Device(name="A100 80 GB", reported=r"A100(-SXM4-80GB| 80GB PCIe)", memory_gib=80, half=312, single=19.5),
    Device(name="L40S", reported=r"L40S", memory_gib=48, half=362, single=91.6),
    Device(name="T4", reported=r"T4", memory_gib=16, half=65, single=8.1, has_bf16=False),
    Device(name="RTX 3090", reported=r"GeForce RTX 3090", memory_gib=24, half=71, single=35.6),
    Device(name="RTX 4090", reported=r"GeForce RTX 4090", memory_gib=24, half=165.2, single=82.6),
    # PyTorch sees each of the two dies of an MI250X as a device.
    Device(name="half an MI250X", reported=r"Instinct MI250X", memory_gib=64, half=191.5, single=47.9),
    Device(name="MI300X", reported=r"Instinct MI300X( OAM)?", memory_gib=192, half=1307, single=163.4),
)
_VENDOR = r"(?:(?:NVIDIA|Tesla|AMD) )*"


def find_device(reported: str) -> Device | None:
    """Return the device with the ``torch.cuda.get_device_name()`` ``reported``; None if it is unknown.

    Partitions of a device (MIG) and variants (Laptop, Ti) are unknown: their rates differ.
    """
    return next((device for device in DEVICES if re.fullmatch(_VENDOR + device.reported, reported)), None)
