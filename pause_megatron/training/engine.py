"""The joint of Megatron-core and DeepSpeed: one engine that updates what Megatron's schedule differentiated.

Megatron-core's schedule runs forward and backward over all microbatches and accumulates gradients. DeepSpeed's engine
never sees a microbatch boundary: with ``managed_gradient_accumulation`` off its ``step()`` reduces over the
data-parallel processes, clips and updates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import deepspeed
import torch
from megatron.core import parallel_state

from pause_megatron.config.deepspeed import TORCH_DTYPES, DeepSpeedFile
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.model.gpt import LocalModel
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.cpu import let_deepspeed_use_any_cpu
from pause_megatron.parallel.groups import DeepSpeedMpu
from pause_megatron.training.flat_gradients import FlatGradients
from pause_megatron.training.flat_weights import share_weights
from pause_megatron.training.gradients import split_over_the_sequence, sum_over_tensor_parallel

NO_WEIGHT_DECAY = "no_weight_decay"
WEIGHT_DECAY = "weight_decay"


def build_engine(
    model: LocalModel,
    *,
    deepspeed_file: DeepSpeedFile,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
) -> deepspeed.DeepSpeedEngine:
    """Wrap this process's part of the model into a DeepSpeed engine with AdamW."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    let_deepspeed_use_any_cpu()
    for item in model.parameters:
        if item.tied_copy:  # or the tied embeddings would count twice in the gradient norm
            item.parameter.ds_pipe_replicated = True  # type: ignore[attr-defined]
    if deepspeed_file.zero_stage >= 2:
        # These stages take a gradient away as soon as it is there, so it has to be whole by then.
        for item in split_over_the_sequence(model.parameters):
            item.parameter.register_hook(sum_over_tensor_parallel)
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
    """DeepSpeed's whole configuration: the user's file, and what this project's flags decide."""
    values = deepspeed_file.values
    zero = dict(values.get("zero_optimization", {}))
    if deepspeed_file.zero_stage == 0:
        zero["stage"] = 1  # over groups of one process, see DeepSpeedMpu
    config: dict[str, object] = {
        **values,
        "zero_optimization": zero,
        # DeepSpeed's own Adam for the CPU is compiled on first use; PyTorch's is there already.
        "zero_force_ds_cpu_optimizer": values.get("zero_force_ds_cpu_optimizer", False),
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        # Megatron's schedule has divided by the number of microbatches already.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.clip_grad,
        "steps_per_print": 1_000_000_000,
    }
    if deepspeed_file.gradients_stay_whole:
        config.pop("data_types", None)  # FlatGradients sees to it
    if deepspeed_file.precision == "bf16":
        config["bf16"] = {**values["bf16"], "check_grad_overflow": True}  # or DeepSpeed would apply what is not finite
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


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, value: float) -> None:
    """Set the learning rate of the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = value
