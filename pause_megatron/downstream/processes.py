"""Finetuning on several processes: how a batch is split over them, and the Trainer's own switches for what they share.

The Trainer runs plain data parallelism, DeepSpeed's ZeRO or PyTorch's FSDP, all through accelerate, under torchrun,
``srun`` or ``mpirun``. On CPUs, where accelerate knows the first alone, the group is formed here.
"""

from __future__ import annotations

import gc
import json
import os
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

from pause_megatron.config.deepspeed import OWNED_KEYS_OF_FINETUNING, read_deepspeed_file
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import detect_launch, export_launch

FSDP_KEYS = (
    "activation_checkpointing",
    "auto_wrap_policy",
    "cpu_offload",
    "min_num_params",
    "transformer_layer_cls_to_wrap",
)
"""What a ``--fsdp-config`` file may set."""
_USE_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


def process_arguments(config: FinetuneConfig) -> dict[str, Any]:
    """What ``TrainingArguments`` should know of the processes; a process without a launcher is alone.

    Raises :class:`UserError` for a batch that cannot be split evenly, and for files that do not go with the flags.
    """
    launch = detect_launch()
    parts = launch.world_size * config.gradient_accumulation_steps
    if config.batch_size % parts:
        raise UserError(
            f"--batch-size {config.batch_size}: {launch.world_size} processes with --gradient-accumulation-steps"
            f" {config.gradient_accumulation_steps} need a multiple of {parts}"
        )
    on_cpu = not torch.cuda.is_available()
    arguments: dict[str, Any] = {"per_device_train_batch_size": config.batch_size // parts, "use_cpu": on_cpu}
    arguments["per_device_eval_batch_size"] = arguments["per_device_train_batch_size"]
    sharding = _sharding(config)
    if launch.world_size > 1 or sharding:
        export_launch(launch)
        arguments["ddp_find_unused_parameters"] = False  # a causal language model's are all used
    if sharding and on_cpu:
        _form_cpu_group(config)
        arguments["accelerator_config"] = {"use_configured_state": True}
    return arguments | sharding


def _sharding(config: FinetuneConfig) -> dict[str, Any]:
    if config.deepspeed:
        return {"deepspeed": _deepspeed_values(config)}
    if config.fsdp:
        return {"fsdp": True, "fsdp_config": _fsdp_values(config)}
    return {}


def _deepspeed_values(config: FinetuneConfig) -> dict[str, Any]:
    """The file's content, with what the Trainer fills in from its own arguments where it reads ``auto``."""
    assert config.deepspeed
    file = read_deepspeed_file(config.deepspeed, OWNED_KEYS_OF_FINETUNING)
    if file.precision != config.precision:
        raise UserError(
            f"--deepspeed {file.path} computes in {file.precision}, but --precision is {config.precision};"
            " let the two say the same, fp32 or bf16"
        )
    zero = dict(file.values.get("zero_optimization", {}))
    if file.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # whatever their precision
    filled_in = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return {
        "zero_force_ds_cpu_optimizer": False,  # PyTorch's AdamW updates on the CPU too, and needs no compiler
        **file.values,
        "zero_optimization": zero,
        **dict.fromkeys((*filled_in, "gradient_clipping"), "auto"),
    }


def _fsdp_values(config: FinetuneConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if config.fsdp_config:
        flag = f"--fsdp-config {config.fsdp_config}"
        try:
            values = json.loads(config.fsdp_config.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{flag}: {error.strerror or error}") from error
        except ValueError as error:
            raise UserError(f"{flag}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{flag}: expected a JSON object")
        for key in values:
            if key not in FSDP_KEYS:
                raise UserError(f"{flag}: unknown key '{key}'; known keys: {', '.join(FSDP_KEYS)}")
    return {**values, "reshard_after_forward": config.fsdp == "full_shard"}


def _form_cpu_group(config: FinetuneConfig) -> None:
    """Form the group as accelerate would on GPUs, but with gloo: what is split runs on CPUs too, for a trial."""
    if config.deepspeed:
        from pause_megatron.engine.cpu import let_deepspeed_use_any_cpu

        let_deepspeed_use_any_cpu()
        os.environ[_USE_DEEPSPEED] = "true"  # as TrainingArguments tells it
    PartialState._reset_state()
    state = PartialState(backend="gloo")
    if config.deepspeed:
        del os.environ[_USE_DEEPSPEED]
    else:
        state.distributed_type = DistributedType.MULTI_GPU  # of a group of CPUs it ignores the wish for FSDP


def leave_processes() -> None:
    """End the group of processes, if there is one; the Trainer must be out of reach.

    A process that ends while it is in a group of gloo's now and then aborts, whatever its exit code was to be.
    What it leaves has to be gone first: a wrapped model that outlives its group waits for gloo's threads with Python's
    lock in hand, for which they may be waiting.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def whole_weights(trainer: Trainer) -> dict[str, torch.Tensor] | None:
    """The trained weights on rank 0, gathered where they are split; every process calls this. None: the model holds
    them as they are to be written.

    With DeepSpeed and bf16 they are bf16, as DeepSpeed keeps them beside its optimizer's own.
    """
    if not trainer.is_deepspeed_enabled and not trainer.is_fsdp_enabled:
        return None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}  # nothing, if anything, on other ranks
    tied = trainer.model.all_tied_weights_keys  # once is enough, as in a model that is not split
    return {name: tensor for name, tensor in weights.items() if name not in tied}
