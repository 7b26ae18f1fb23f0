"""Devices are recognised by their complete reported name only."""

from __future__ import annotations

import pytest

from pause_megatron.costs.devices import DEVICES, find_device


@pytest.mark.parametrize(
    ("reported", "bf16", "memory_gib"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 80),
        ("NVIDIA H100 PCIe", 756, 80),
        ("NVIDIA H100 NVL", 835, 94),
        ("NVIDIA H200", 989, 141),
        ("NVIDIA B200", 2250, 180),
        ("NVIDIA A100-SXM4-40GB", 312, 40),
        ("A100-SXM4-40GB", 312, 40),
        ("NVIDIA A100 80GB PCIe", 312, 80),
        ("NVIDIA L40S", 362, 48),
        ("Tesla T4", None, 16),
        ("NVIDIA GeForce RTX 4090", 165.2, 24),
        ("AMD Instinct MI300X", 1307, 192),
    ],
)
def test_device_is_found_by_its_name(reported: str, bf16: float | None, memory_gib: int) -> None:
    device = find_device(reported)
    assert device is not None
    assert device.peak_tflops("bf16") == bf16
    assert device.memory_gib == memory_gib


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",  # a seventh of the device
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100",
        "NVIDIA L40",
        "",
    ],
)
def test_partitions_and_variants_of_known_devices_are_unknown(reported: str) -> None:
    assert find_device(reported) is None


def test_t4_has_no_bf16_rate() -> None:
    device = find_device("Tesla T4")
    assert device is not None
    assert (device.peak_tflops("fp16"), device.peak_tflops("bf16"), device.peak_tflops("fp32")) == (65, None, 8.1)


def test_devices_that_pytorchs_builds_cannot_use_are_unknown() -> None:
    assert find_device("Tesla V100-SXM2-32GB") is None


def test_names_and_patterns_are_unique() -> None:
    assert len({device.name for device in DEVICES}) == len({device.reported for device in DEVICES}) == len(DEVICES)
