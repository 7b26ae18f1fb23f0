"""Builds the DeepSpeed engine that applies the gradients of Megatron-core's schedules.

Megatron-core's schedule runs forward and backward over all microbatches and accumulates gradients. DeepSpeed does not
see microbatches (``managed_gradient_accumulation`` is off): an updater completes the gradients and applies them.
"""

import logging
from typing import Any

import deepspeed
import torch
from megatron.core import parallel_state

from pause_megatron.config.deepspeed import TORCH_DTYPES, DeepSpeedFile
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.engine import Engine
from pause_megatron.engine.accelerator import let_deepspeed_use_own_device
from pause_megatron.engine.flat_updater import FlatUpdater
from pause_megatron.engine.parameter_groups import bucket_elements, parameter_groups
from pause_megatron.engine.partitioned_updater import PartitionedUpdater
from pause_megatron.engine.shared_gradients import partial_parameters, summed_over_tensor_parallel
from pause_megatron.engine.updater import Updater
from pause_megatron.engine.weight_gathering import share_weights
from pause_megatron.model.gpt import LocalModel
from pause_megatron.parallel.groups import DeepSpeedMpu


def build_engine(
    model: LocalModel, *, deepspeed_file: DeepSpeedFile, optimizer: OptimizerConfig, training: TrainingConfig
) -> Engine:
    """Wrap this rank's part of the model into a DeepSpeed engine with AdamW."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    let_deepspeed_use_own_device()
    for item in model.parameters:
        if item.tied_copy:  # count the tied embeddings only once in the gradient norm
            item.parameter.ds_pipe_replicated = True  # type: ignore[attr-defined]
    is_flat = deepspeed_file.gradients_stay_whole
    if not is_flat:
        # ZeRO-2 and ZeRO-3 reduce each gradient as soon as autograd produces it, so complete it in a hook before that.
        for parameter in partial_parameters(model.parameters):
            parameter.register_hook(summed_over_tensor_parallel)
    bucket = bucket_elements(deepspeed_file) if is_flat else None
    deepspeed_engine, *_ = deepspeed.initialize(
        model=model.chunks[0] if len(model.chunks) == 1 else torch.nn.ModuleList(model.chunks),
        optimizer=torch.optim.AdamW(
            parameter_groups(model.parameters, optimizer.weight_decay, bucket=bucket),
            lr=optimizer.learning_rate,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_eps,
            fused=True,
        ),
        config=deepspeed_config(deepspeed_file, optimizer, training),
        mpu=DeepSpeedMpu(replicates_optimizer=deepspeed_file.zero_stage == 0),
        dist_init_required=False,
    )
    if is_flat:
        updater: Updater = _flat_updater(deepspeed_engine.optimizer, model, deepspeed_file)
    else:
        updater = PartitionedUpdater(deepspeed_engine)
    for chunk in model.chunks:
        chunk.config.no_sync_func = updater.accumulating
        chunk.config.grad_scale_func = deepspeed_engine.scale if deepspeed_file.precision == "fp16" else None
    return Engine(deepspeed=deepspeed_engine, updater=updater)


def _flat_updater(zero: Any, model: LocalModel, deepspeed_file: DeepSpeedFile) -> FlatUpdater:
    if deepspeed_file.precision == "fp32" and not deepspeed_file.offload_optimizer:
        share_weights(zero)
    group = parallel_state.get_data_parallel_group() if deepspeed_file.zero_stage == 0 else None
    dtype = getattr(torch, TORCH_DTYPES[deepspeed_file.grad_dtype])
    return FlatUpdater(zero, model, dtype, replicated_over=group)


def deepspeed_config(
    deepspeed_file: DeepSpeedFile, optimizer: OptimizerConfig, training: TrainingConfig
) -> dict[str, object]:
    """DeepSpeed's complete configuration: the user's file, and the settings that this project's flags decide."""
    values = deepspeed_file.values
    zero = dict(values.get("zero_optimization", {}))
    if deepspeed_file.zero_stage == 0:
        zero["stage"] = 1  # over groups of one rank, see DeepSpeedMpu
    config: dict[str, object] = {
        "timers": {"throughput": {"enabled": False}},  # they make the host wait in every forward pass from step 3 on
        **values,
        "zero_optimization": zero,
        # DeepSpeed compiles its own CPU Adam at the first use; PyTorch's needs no compiler.
        "zero_force_ds_cpu_optimizer": values.get("zero_force_ds_cpu_optimizer", False),
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        # Megatron's schedule has already divided by the number of microbatches.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.clip_grad,
        "steps_per_print": 1_000_000_000,
    }
    if deepspeed_file.gradients_stay_whole:
        config.pop("data_types", None)  # FlatUpdater accumulates in grad_accum_dtype itself
    if deepspeed_file.precision == "bf16":
        # Without this DeepSpeed applies gradients that are not finite.
        config["bf16"] = {**values["bf16"], "check_grad_overflow": True}
    return config
