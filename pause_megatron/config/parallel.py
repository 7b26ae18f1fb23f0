"""How a model is split over processes: the parallel layout, and the one table of combinations that cannot work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The parallel layout; data parallelism takes the processes that are left."""

    tensor_model_parallel_size: int = 1
    """Processes that share each layer's matrices."""
    pipeline_model_parallel_size: int = 1
    """Pipeline stages the layers are divided into."""
    virtual_pipeline_model_parallel_size: int = 1
    """Model chunks a stage (interleaved 1F1B schedule)."""
    sequence_parallel: bool = False
    """Split the norms' activations over the tensor-parallel processes too."""
    recompute_granularity: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass instead of being kept: selective recomputes the MLPs, full whole
    layers from their inputs."""
    recompute_num_layers: int = 1
    """Layers a block of full recomputation; only the input of a block is kept."""

    def __post_init__(self) -> None:
        require_at_least(1, tensor_model_parallel_size=self.tensor_model_parallel_size)
        require_at_least(1, pipeline_model_parallel_size=self.pipeline_model_parallel_size)
        require_at_least(1, virtual_pipeline_model_parallel_size=self.virtual_pipeline_model_parallel_size)
        require_at_least(1, recompute_num_layers=self.recompute_num_layers)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout resolved against a world size: what every process agrees on."""

    tp: int
    """Tensor-parallel size."""
    pp: int
    """Pipeline-parallel size."""
    vp: int
    """Chunks a pipeline stage."""
    dp: int
    """Data-parallel size."""
    sequence_parallel: bool
    """Whether sequence parallelism is on."""

    @property
    def world_size(self) -> int:
        """Processes of the run."""
        return self.tp * self.pp * self.dp

    def __str__(self) -> str:
        parts = [f"TP {self.tp}", f"PP {self.pp}", f"DP {self.dp}"]
        if self.vp > 1:
            parts.append(f"VP {self.vp}")
        if self.sequence_parallel:
            parts.append("SP")
        return " · ".join(parts)


def resolve_layout(
    parallel: ParallelConfig, *, world_size: int, model: ModelConfig, vocab_size: int, zero_stage: int
) -> Layout:
    """Check a layout against the process count, the model's sizes and the ZeRO stage, before any process group starts.

    Raises :class:`UserError` with the flag to change.
    """
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    vp = parallel.virtual_pipeline_model_parallel_size
    if world_size % (tp * pp):
        raise UserError(
            f"{world_size} processes cannot be divided into --tensor-model-parallel-size {tp} x"
            f" --pipeline-model-parallel-size {pp}: start a multiple of {tp * pp} processes"
        )
    layout = Layout(
        tp=tp, pp=pp, vp=vp, dp=world_size // (tp * pp), sequence_parallel=parallel.sequence_parallel and tp > 1
    )
    for impossible, reason in _refusals(layout, model, vocab_size, zero_stage):
        if impossible:
            raise UserError(f"{layout} with ZeRO-{zero_stage}: {reason}")
    return layout


def _refusals(layout: Layout, model: ModelConfig, vocab_size: int, zero_stage: int) -> list[tuple[bool, str]]:
    """Every combination that cannot work, and why."""
    tp, pp, vp = layout.tp, layout.pp, layout.vp
    return [
        (
            zero_stage == 0,
            "DeepSpeed refuses Megatron's direct backward without ZeRO; use a ZeRO-1 file of ds_configs/, which on one"
            " data-parallel process is the same computation",
        ),
        (
            zero_stage >= 2 and pp > 1,
            f"ZeRO-{zero_stage} partitions gradients during the backward pass, which pipeline schedules interleave with"
            " other microbatches; use a ZeRO-1 file of ds_configs/ or --pipeline-model-parallel-size 1",
        ),
        (
            zero_stage >= 2 and layout.sequence_parallel,
            f"ZeRO-{zero_stage} takes the gradients away before sequence parallelism has summed the norms'; use a"
            " ZeRO-1 file of ds_configs/ or leave --sequence-parallel off",
        ),
        (zero_stage > 3, "there is no such ZeRO stage; use 1, 2 or 3 in the --deepspeed file"),
        (vp > 1 and pp == 1, "--virtual-pipeline-model-parallel-size needs pipeline stages"),
        (
            model.num_layers % (pp * vp) != 0,
            f"--num-layers {model.num_layers} is not a multiple of {pp} pipeline stages x {vp} chunks",
        ),
        (
            model.num_attention_heads % tp != 0 or model.query_groups % tp != 0,
            f"--num-attention-heads {model.num_attention_heads} (key/value heads {model.query_groups}) is not a"
            f" multiple of --tensor-model-parallel-size {tp}",
        ),
        (model.ffn_size % tp != 0, f"the MLP width {model.ffn_size} is not a multiple of {tp}"),
        (
            padded_vocab_size(vocab_size) % tp != 0,
            f"the padded vocabulary {padded_vocab_size(vocab_size)} is not a multiple of {tp}",
        ),
    ]
