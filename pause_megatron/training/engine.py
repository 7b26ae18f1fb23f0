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
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.model.gpt import LocalModel
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.cpu import skip_deepspeed_cpu_kernels
from pause_megatron.parallel.groups import DeepSpeedMpu

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
    skip_deepspeed_cpu_kernels()
    for parameter in model.parameters:
        if parameter.tied_copy:  # or the tied embeddings would count twice in the gradient norm
            parameter.parameter.ds_pipe_replicated = True  # type: ignore[attr-defined]
    engine, *_ = deepspeed.initialize(
        model=model.chunks[0] if len(model.chunks) == 1 else torch.nn.ModuleList(model.chunks),
        optimizer=torch.optim.AdamW(
            parameter_groups(model.parameters, optimizer.weight_decay),
            lr=optimizer.learning_rate,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_eps,
        ),
        config=deepspeed_config(deepspeed_file, optimizer, training),
        mpu=DeepSpeedMpu(),
        dist_init_required=False,
    )
    return engine


def deepspeed_config(
    deepspeed_file: DeepSpeedFile, optimizer: OptimizerConfig, training: TrainingConfig
) -> dict[str, object]:
    """DeepSpeed's whole configuration: the user's file, and what this project's flags decide."""
    return {
        **deepspeed_file.values,
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        # Megatron's schedule has divided by the number of microbatches already.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.clip_grad,
        "steps_per_print": 1_000_000_000,
    }


def parameter_groups(parameters: Sequence[NamedParameter], weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay, vectors (biases and norms) without; in this order on every pipeline stage."""
    matrices = [item.parameter for item in parameters if len(item.shard.global_shape) > 1]
    vectors = [item.parameter for item in parameters if len(item.shard.global_shape) == 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "name": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0, "name": NO_WEIGHT_DECAY},
    ]
    return [group for group in groups if group["params"]]


def reduce_shared_gradients(parameters: Sequence[NamedParameter]) -> None:
    """Sum the gradients of parameters that several model-parallel processes hold and each saw in part.

    Under sequence parallelism every process saw its slice of the sequence through the norms and through the biases
    added after a reduce-scatter; tied word embeddings were used as input on the first stage and as output on the last.
    """
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        for item in parameters:
            if getattr(item.parameter, "sequence_parallel", False):
                dist.all_reduce(item.parameter.grad, group=parallel_state.get_tensor_model_parallel_group())
    if parallel_state.get_pipeline_model_parallel_world_size() > 1 and parallel_state.is_rank_in_embedding_group():
        for item in parameters:
            if getattr(item.parameter, "shared_embedding", False):
                dist.all_reduce(item.parameter.grad, group=parallel_state.get_embedding_group())


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, value: float) -> None:
    """Set the learning rate of the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = value
