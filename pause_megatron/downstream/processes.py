"""Finetuning on several processes: the size of each process's part of a batch, and the Trainer's sharding options.

The Trainer runs data parallelism, DeepSpeed's ZeRO or PyTorch's FSDP, all through accelerate, under torchrun, ``srun``
or ``mpirun``. On CPUs accelerate supports only the first, so this module forms the process group for the others.
"""

import gc
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer, TrainingArguments

from pause_megatron.config.deepspeed import OWNED_KEYS_OF_FINETUNING, read_deepspeed_file
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.errors import UserError
from pause_megatron.parallel.gloo_interface import choose_gloo_interface
from pause_megatron.parallel.launcher import Launch, export_launch, withdraw_launch
from pause_megatron.parallel.process_device import choose_device
from pause_megatron.parallel.rendezvous import BACKENDS, form_default_group
from pause_megatron.records.files import read_json

_WRAPPING_KEYS = ("auto_wrap_policy", "min_num_params", "transformer_layer_cls_to_wrap")
FSDP_KEYS = ("activation_checkpointing", *_WRAPPING_KEYS, "cpu_offload")
"""Keys of a ``--fsdp-config`` file."""
TIMEOUT = timedelta(minutes=30)
"""Timeout of collectives, accelerate's default."""
_USE_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


def process_arguments(config: FinetuneConfig, launch: Launch) -> dict[str, Any]:
    """Return the ``TrainingArguments`` that depend on the processes, and form their group if there are several.

    Raises :class:`UserError` for a batch that does not divide evenly, and for files that contradict the flags.
    """
    parts = launch.world_size * config.gradient_accumulation_steps
    if config.batch_size % parts:
        raise UserError(
            f"--batch-size {config.batch_size}: does not divide into {launch.world_size} processes times"
            f" --gradient-accumulation-steps {config.gradient_accumulation_steps}; give a multiple of {parts}"
        )
    own_device = choose_device(config.device, launch)
    on_cpu = own_device.type == "cpu"
    arguments: dict[str, Any] = {"use_cpu": on_cpu, "dataloader_pin_memory": not on_cpu}
    arguments["per_device_train_batch_size"] = config.batch_size // parts
    arguments["per_device_eval_batch_size"] = arguments["per_device_train_batch_size"]
    sharding: dict[str, Any] = {}
    if config.deepspeed:
        sharding = {"deepspeed": _deepspeed_values(config)}
    elif config.fsdp:
        sharding = {"fsdp": True, "fsdp_config": _fsdp_values(config)}
    if launch.world_size > 1 or sharding:
        export_launch(launch, gpu=own_device.index)
        # Before accelerate does, with a store on all network interfaces, and on GPUs without gloo.
        choose_gloo_interface(launch)
        form_default_group(launch, backend=BACKENDS[own_device.type], timeout=TIMEOUT)
        arguments["ddp_find_unused_parameters"] = False  # a causal language model uses all
    if sharding and on_cpu:
        _form_cpu_group(config)
        arguments["accelerator_config"] = {"use_configured_state": True}
    return arguments | sharding


def _deepspeed_values(config: FinetuneConfig) -> dict[str, Any]:
    """Return the file's content, with ``auto`` for the values that the Trainer fills in from its arguments."""
    assert config.deepspeed
    file = read_deepspeed_file(config.deepspeed, OWNED_KEYS_OF_FINETUNING)
    if file.precision != config.precision:
        raise UserError(
            f"--deepspeed {file.path}: computes in {file.precision}, but --precision is {config.precision}; use the"
            " same for both, fp32 or bf16"
        )
    zero = dict(file.values.get("zero_optimization", {}))
    if file.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # in any precision
    filled_in = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    # Gradients in fp32 would select another optimizer of DeepSpeed's under ZeRO-1.
    kept = {name: value for name, value in file.values.items() if name != "data_types" or file.zero_stage > 1}
    return {
        "timers": {"throughput": {"enabled": False}},  # the Trainer has its own; these make the host wait for the GPU
        "zero_force_ds_cpu_optimizer": False,  # PyTorch's AdamW also runs on the CPU, without a compiler
        **kept,
        "zero_optimization": zero,
        **dict.fromkeys((*filled_in, "gradient_clipping"), "auto"),
    }


def _fsdp_values(config: FinetuneConfig) -> dict[str, Any]:
    values: Any = {}
    if config.fsdp_config:
        values, flag = read_json(config.fsdp_config), f"--fsdp-config {config.fsdp_config}"
        if not isinstance(values, dict):
            raise UserError(f"{flag}: expected a JSON object; give settings by name, for example cpu_offload")
        for key in values:
            if key not in FSDP_KEYS:
                raise UserError(f"{flag}: unknown key '{key}'; known keys: {', '.join(FSDP_KEYS)}")
    return {**values, "reshard_after_forward": config.fsdp == "full_shard"}


def _form_cpu_group(config: FinetuneConfig) -> None:
    """Form the process group as accelerate does on GPUs, but with gloo, so that sharding can be tried on CPUs."""
    if config.deepspeed:
        from pause_megatron.engine.accelerator import let_deepspeed_use_own_device

        let_deepspeed_use_own_device()
        os.environ[_USE_DEEPSPEED] = "true"  # as TrainingArguments does
    PartialState._reset_state()
    state = PartialState(backend="gloo")
    if config.deepspeed:
        del os.environ[_USE_DEEPSPEED]
    else:
        state.distributed_type = DistributedType.MULTI_GPU  # on CPUs accelerate ignores FSDP otherwise


def run_on_rank_0(arguments: TrainingArguments, action: Callable[[], int | None]) -> int:
    """Run ``action`` on rank 0 only and return its number, 0 for None, on every process; all must call this together.

    If it raises :class:`UserError` or ``OSError``, every process raises a :class:`UserError` with the message.
    """
    number, failure = 0, ""
    if arguments.process_index == 0:
        try:
            number = action() or 0
        except UserError as error:
            failure = str(error)
        except OSError as error:
            failure = f"{error.filename}: {error.strerror or error}; mend it and run the same command again"
    if torch.distributed.is_initialized():  # tensors, because the group may use any library, and objects are unpickled
        header = torch.tensor([number, len(failure.encode())], device=arguments.device)
        torch.distributed.broadcast(header, src=0)
        number, size = (int(value) for value in header)
        text = torch.tensor(list(failure.encode().ljust(size)[:size]), dtype=torch.uint8, device=arguments.device)
        torch.distributed.broadcast(text, src=0)
        failure = bytes(text.tolist()).decode()
    if failure:
        raise UserError(failure)
    return number


def raise_on_all_ranks(arguments: TrainingArguments, failure: str) -> None:
    """Raise :class:`UserError` on every process if one passes a ``failure``; this waits for all processes."""
    failed = torch.tensor([bool(failure)], dtype=torch.int64, device=arguments.device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(failed, op=torch.distributed.ReduceOp.MAX)
    if failed:
        raise UserError(failure or "another process failed; see its message")


def leave_processes() -> None:
    """Destroy the process group, if there is one; the caller must not hold a reference to the Trainer.

    A process that ends inside a gloo group sometimes aborts, with another exit code. Collect the wrapped model first:
    if it outlives the group, it waits for gloo's threads while it holds Python's lock, which they may wait for.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
    withdraw_launch()


def merged_weights(trainer: Trainer) -> dict[str, torch.Tensor] | None:
    """Gather sharded weights on rank 0; every process must call this. ``None`` if the model holds complete weights.

    With DeepSpeed and bf16 they are bf16, because DeepSpeed keeps the fp32 copy in its optimizer.
    """
    if not trainer.is_deepspeed_enabled and not trainer.is_fsdp_enabled:
        return None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}  # None or empty on other ranks
    tied = trainer.model.all_tied_weights_keys  # written once, as for a model that is not sharded
    return {name: tensor for name, tensor in weights.items() if name not in tied}
