"""Devices of a run, for its first log line, ``run.json`` and its checkpoints."""

from collections import Counter
from dataclasses import replace

import torch

from pause_megatron import log
from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.model.attention import attention_kernel
from pause_megatron.model.compilation import layer_compilation
from pause_megatron.parallel.process_device import describe_device, device, gather_devices
from pause_megatron.parallel.visible_gpus import driver_version
from pause_megatron.records.pretraining import DeviceRecord
from pause_megatron.training.inputs import PretrainInputs


def describe_own_device(config: PretrainConfig, inputs: PretrainInputs) -> DeviceRecord:
    """Return the record of a run whose ranks all compute like this one; needs no process group."""
    on_gpu = device().type == "cuda"
    has_nccl = on_gpu and torch.distributed.is_nccl_available()
    return DeviceRecord(
        devices={describe_device().name: inputs.layout.world_size},
        driver=driver_version() if on_gpu else None,
        cuda=torch.version.cuda if on_gpu else None,
        nccl=".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None,
        attention=attention_kernel(
            config.model,
            seq_length=inputs.seq_length,
            dtype=getattr(torch, TORCH_DTYPES[inputs.deepspeed_file.precision]),
            device=device(),
        ),
        compilation=str(layer_compilation(inputs.layout.compile_layers)),
    )


def describe_all_devices(own: DeviceRecord) -> DeviceRecord:
    """All-gather: return ``own`` with the devices of all ranks; warn if they are of several kinds.

    Raises :class:`UserError` on every rank if two ranks share a GPU, or if only some have one.
    """
    names = Counter(item.name for item in gather_devices())
    if len(names) > 1:
        log.warn(f"different devices: {', '.join(f'{count} x {name}' for name, count in names.items())}")
    return replace(own, devices=dict(names))


def device_line(record: DeviceRecord) -> str:
    """Return for example "on NVIDIA H100 80GB HBM3, driver 580.65.06, CUDA 13.0, NCCL 2.29.7, attention cudnn, ..."."""
    software = {"driver": record.driver, "CUDA": record.cuda, "NCCL": record.nccl, "attention": record.attention}
    named = [f"{name} {version}" for name, version in software.items() if version]
    return ", ".join([f"on {' and '.join(record.devices)}", *named, record.compilation])
