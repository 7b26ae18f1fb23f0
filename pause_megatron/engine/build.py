"""Builds the DeepSpeed engine that applies the gradients of Megatron-core's schedules.

Megatron-core's schedule runs forward and backward over all microbatches and accumulates gradients. DeepSpeed does not
see microbatches: with ``managed_gradient_accumulation`` off, each ``engine.step()`` reduces the gradients over the
data-parallel ranks, clips them and updates the weights.
"""

import logging
from collections.abc import Sequence

import deepspeed
import torch
from megatron.core import parallel_state

from pause_megatron.config.deepspeed import TORCH_DTYPES, DeepSpeedFile
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.engine.accelerator import let_deepspeed_use_own_device
from pause_megatron.engine.flat_gradients import FlatGradients, share_weights
from pause_megatron.engine.update import sequence_parallel_parameters, summed_over_tensor_parallel
from pause_megatron.model.gpt import LocalModel
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.groups import DeepSpeedMpu

NO_WEIGHT_DECAY = "no_weight_decay"
WEIGHT_DECAY = "weight_decay"


def build_engine(
    model: LocalModel, *, deepspeed_file: DeepSpeedFile, optimizer: OptimizerConfig, training: TrainingConfig
) -> deepspeed.DeepSpeedEngine:
    """Wrap this rank's part of the model into a DeepSpeed engine with AdamW."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    let_deepspeed_use_own_device()
    for item in model.parameters:
        if item.tied_copy:  # count the tied embeddings only once in the gradient norm
            item.parameter.ds_pipe_replicated = True  # type: ignore[attr-defined]
    if deepspeed_file.zero_stage >= 2:
        # ZeRO-2 and ZeRO-3 reduce each gradient as soon as autograd produces it, so complete it in a hook before that.
        for item in sequence_parallel_parameters(model.parameters):
            item.parameter.register_hook(summed_over_tensor_parallel)
    engine, *_ = deepspeed.initialize(
        model=model.chunks[0] if len(model.chunks) == 1 else torch.nn.ModuleList(model.chunks),
        optimizer=torch.optim.AdamW(
            parameter_groups(model.parameters, optimizer.weight_decay),
            lr=optimizer.learning_rate,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_eps,
            fused=True,
        ),
        config=deepspeed_config(deepspeed_file, optimizer, training),
        mpu=DeepSpeedMpu(replicates_optimizer=deepspeed_file.zero_stage == 0),
        dist_init_required=False,
    )
    if deepspeed_file.gradients_stay_whole:
        group = parallel_state.get_data_parallel_group() if deepspeed_file.zero_stage == 0 else None
        FlatGradients(engine.optimizer, getattr(torch, TORCH_DTYPES[deepspeed_file.grad_dtype]), replicated_over=group)
        if deepspeed_file.precision == "fp32":
            share_weights(engine.optimizer)
    for chunk in model.chunks:
        chunk.config.grad_scale_func = engine.scale if deepspeed_file.precision == "fp16" else None
    return engine


def deepspeed_config(
    deepspeed_file: DeepSpeedFile, optimizer: OptimizerConfig, training: TrainingConfig
) -> dict[str, object]:
    """DeepSpeed's complete configuration: the user's file, and the settings that this project's flags decide."""
    values = deepspeed_file.values
    zero = dict(values.get("zero_optimization", {}))
    if deepspeed_file.zero_stage == 0:
        zero["stage"] = 1  # over groups of one rank, see DeepSpeedMpu
    config: dict[str, object] = {
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
        config.pop("data_types", None)  # FlatGradients accumulates in grad_accum_dtype itself
    if deepspeed_file.precision == "bf16":
        # Without this DeepSpeed applies gradients that are not finite.
        config["bf16"] = {**values["bf16"], "check_grad_overflow": True}
    return config


def parameter_groups(parameters: Sequence[NamedParameter], weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay, vectors (biases and norms) without; in this order on every pipeline stage."""
    matrices = [item.parameter for item in parameters if len(item.shard.global_shape) > 1]
    vectors = [item.parameter for item in parameters if len(item.shard.global_shape) == 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "name": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0, "name": NO_WEIGHT_DECAY},
    ]
    return [group for group in groups if group["params"]]
