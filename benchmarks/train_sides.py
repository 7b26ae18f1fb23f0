"""The two sides of ``train_step.py``: this project's training step, and transformers with a bare PyTorch loop.

Both compute on the same batch in microbatches, clip to the same norm and update by the same fused AdamW, which is the
fastest that PyTorch has. Under bf16 the peer computes in autocast on fp32 weights; ours is what
ds_configs/zero1_bf16.json says, where the optimizer's weights are in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from pause_megatron.config.deepspeed import TORCH_DTYPES, Precision, deepspeed_file
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import CompileLayers, ParallelConfig, resolve_layout
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.conversion.hf_config import hf_model_config
from pause_megatron.conversion.table import to_hf_state
from pause_megatron.data.batches import Microbatch
from pause_megatron.engine.build import build_engine
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.parallel.ports import free_port
from pause_megatron.training.step import Stepper

OPTIMIZER = OptimizerConfig()
_EOD_ID = 1
_SEED = 1234

Step = Callable[[], float]
"""Trains on the batch once, and returns its loss before the update."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model and what a step of it computes."""

    model: ModelConfig
    vocab_size: int
    seq_length: int
    batch_size: int
    """Sequences a step."""
    micro_batch_size: int
    precision: Precision
    """``fp32`` or ``bf16``."""

    def microbatches(self) -> list[torch.Tensor]:
        """Random tokens, ``[micro_batch_size, seq_length + 1]`` each; the same whenever asked."""
        generator = torch.Generator().manual_seed(_SEED)
        shape = self.batch_size, self.seq_length + 1
        tokens = torch.randint(0, self.vocab_size, shape, generator=generator)
        return list(tokens.to(device()).split(self.micro_batch_size))


def ours(workload: Workload, compile_layers: CompileLayers) -> tuple[Step, dict[str, torch.Tensor]]:
    """This project's step as ``pretrain`` runs it on one process, and its initial weights under Hugging Face's names.

    Process groups are started once, and left to the end of the process.
    """
    precision = {} if workload.precision == "fp32" else {workload.precision: {"enabled": True}}
    file = deepspeed_file(Path("train_step"), {**precision, "zero_optimization": {"stage": 1}})
    parallel = ParallelConfig(compile_layers=compile_layers)
    layout = resolve_layout(
        parallel, world_size=1, model=workload.model, vocab_size=workload.vocab_size, deepspeed=file
    )
    if not dist.is_initialized():
        initialize_process_groups(replace(detect_launch({}), master_port=free_port()), layout, seed=_SEED)
    model = build_local_model(
        workload.model,
        layout,
        vocab_size=workload.vocab_size,
        seed=_SEED,
        dtype=getattr(torch, TORCH_DTYPES[file.precision]),
    )
    weights = {item.shard.name: item.parameter.detach() for item in model.parameters}
    state = to_hf_state(weights.__getitem__, workload.model, workload.vocab_size)
    initial = {name: tensor.float().clone() for name, tensor in state}
    training = TrainingConfig(
        train_iters=1, global_batch_size=workload.batch_size, micro_batch_size=workload.micro_batch_size
    )
    engine = build_engine(model, deepspeed_file=file, optimizer=OPTIMIZER, training=training)
    stepper = Stepper(model, engine, layout, device())
    batches = [_microbatch(tokens) for tokens in workload.microbatches()]

    def step() -> float:
        losses = stepper.accumulate(batches)
        stepper.update(OPTIMIZER.learning_rate)
        return losses.mean

    return step, initial


def peer(workload: Workload, initial: dict[str, torch.Tensor] | None, *, compiled: bool) -> Step:
    """The same step of the same model with transformers and PyTorch alone, from ``initial`` weights or random ones."""
    config = hf_model_config(workload.model, vocab_size=workload.vocab_size, eod_id=_EOD_ID)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    if initial:
        missing, unexpected = model.load_state_dict(initial, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= {"lm_head.weight"}, missing  # tied
    model.to(device()).train()
    optimizer = torch.optim.AdamW(
        _groups(model),
        lr=OPTIMIZER.learning_rate,
        betas=(OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2),
        eps=OPTIMIZER.adam_eps,
        fused=True,
    )
    forward = torch.compile(model) if compiled else model
    autocast = torch.autocast(
        device().type, getattr(torch, TORCH_DTYPES[workload.precision]), enabled=workload.precision != "fp32"
    )
    batches = workload.microbatches()
    targets = workload.batch_size * workload.seq_length

    def step() -> float:
        total = torch.zeros((), device=device())
        for tokens in batches:
            with autocast:
                logits = forward(input_ids=tokens[:, :-1], use_cache=False).logits
            losses = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
            loss = losses / targets
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    return step


def _microbatch(tokens: torch.Tensor) -> Microbatch:
    inputs = tokens[:, :-1].contiguous()
    return Microbatch(
        tokens=inputs,
        labels=tokens[:, 1:].contiguous(),
        loss_mask=torch.ones_like(inputs, dtype=torch.float32),
        position_ids=torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs).contiguous(),
        pause_runs=torch.zeros_like(inputs),
    )


def _groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    parameters: Iterable[torch.nn.Parameter] = model.parameters()
    matrices, vectors = [], []
    for parameter in parameters:
        (matrices if parameter.dim() > 1 else vectors).append(parameter)
    return [
        {"params": matrices, "weight_decay": OPTIMIZER.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
