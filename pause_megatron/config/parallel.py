"""How a model is split over processes: the parallel layout, and the one table of combinations that cannot work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.errors import UserError

Recomputation = Literal["none", "selective", "full"]
CompileLayers = Literal["auto", "always", "never"]


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
    recompute_granularity: Recomputation = "none"
    """Activations computed again in the backward pass instead of being kept: selective recomputes the MLPs, full whole
    layers from their inputs."""
    recompute_num_layers: int = 1
    """Layers a block of full recomputation; only the input of a block is kept."""
    compile_layers: CompileLayers = "auto"
    """Compile each layer with torch.compile; auto: on GPUs, where there is a compiler, and not under ZeRO-3."""

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
    recompute_granularity: Recomputation = "none"
    """What is computed again in the backward pass."""
    recompute_num_layers: int = 1
    """Layers a block of full recomputation."""
    compile_layers: CompileLayers = "auto"
    """Whether layers are compiled; auto leaves it to the device."""

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
        if self.recompute_granularity != "none":
            parts.append(f"recomputing {self.recompute_granularity}")
        return " · ".join(parts)


def resolve_layout(
    parallel: ParallelConfig, *, world_size: int, model: ModelConfig, vocab_size: int, deepspeed: DeepSpeedFile
) -> Layout:
    """Check a layout against the process count, the model's sizes and DeepSpeed's file, before a process group starts.

    Raises :class:`UserError` with the flag to change.
    """
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    if world_size % (tp * pp):
        raise UserError(
            f"{world_size} processes cannot be divided into --tensor-model-parallel-size {tp} x"
            f" --pipeline-model-parallel-size {pp}: start a multiple of {tp * pp} processes"
        )
    layout = Layout(
        tp=tp,
        pp=pp,
        vp=parallel.virtual_pipeline_model_parallel_size,
        dp=world_size // (tp * pp),
        sequence_parallel=parallel.sequence_parallel and tp > 1,
        recompute_granularity=parallel.recompute_granularity,
        recompute_num_layers=parallel.recompute_num_layers,
        compile_layers=_compile_layers(parallel, deepspeed),
    )
    _refuse(layout, deepspeed, [*_impossible_with_deepspeed(layout, deepspeed), *_impossible_sizes(layout, model)])
    padded = padded_vocab_size(vocab_size)
    _refuse(layout, deepspeed, [(padded % tp != 0, f"the padded vocabulary {padded} is not a multiple of {tp}")])
    return layout


def _compile_layers(parallel: ParallelConfig, deepspeed: DeepSpeedFile) -> CompileLayers:
    return "never" if parallel.compile_layers == "auto" and deepspeed.zero_stage == 3 else parallel.compile_layers


def check_batches(layout: Layout, deepspeed: DeepSpeedFile, *, num_microbatches: int, seq_length: int) -> None:
    """Refuse a ``layout`` that cannot compute ``num_microbatches`` a step, or sequences of ``seq_length`` tokens."""
    _refuse(
        layout,
        deepspeed,
        [
            (
                layout.vp > 1 and num_microbatches % layout.pp != 0,
                f"the interleaved schedule needs a multiple of {layout.pp} microbatches a step, one for each stage, not"
                f" {num_microbatches}; change --global-batch-size or --micro-batch-size",
            ),
            (
                layout.sequence_parallel and seq_length % layout.tp != 0,
                f"sequences of {seq_length} tokens cannot be split over {layout.tp} processes; leave"
                " --sequence-parallel off",
            ),
        ],
    )


Condition = tuple[bool, str]
"""Whether something is the case that cannot work, and the reason with what to do instead."""


def _refuse(layout: Layout, deepspeed: DeepSpeedFile, conditions: Sequence[Condition]) -> None:
    for impossible, reason in conditions:
        if impossible:
            raise UserError(f"{layout} with ZeRO-{deepspeed.zero_stage} ({deepspeed.path.name}): {reason}")


def _impossible_with_deepspeed(layout: Layout, deepspeed: DeepSpeedFile) -> list[Condition]:
    """The table of layouts and ZeRO stages that exclude each other. What is not in it works, and tests run it."""
    stage, path = deepspeed.zero_stage, deepspeed.path
    return [
        (stage not in range(4), f"there is no such stage; set 0, 1, 2 or 3 in {path}"),
        (
            stage >= 2 and layout.pp > 1,
            f"ZeRO-{stage} takes gradients{' and weights' if stage == 3 else ''} away after every backward pass, which"
            " pipeline schedules interleave with other microbatches; use a ZeRO-1 file of ds_configs/, or"
            " --pipeline-model-parallel-size 1",
        ),
        (
            stage == 3 and layout.compile_layers == "always",
            "ZeRO-3 gathers weights in hooks that a compiler cannot see, and leaves it scraps of a layer; leave"
            " --compile-layers at auto, or use ZeRO-2 or below",
        ),
        (
            stage == 0 and deepspeed.offload_optimizer,
            "the optimizer can be offloaded only where it is partitioned; use ZeRO-1 or above",
        ),
        (
            stage < 3 and deepspeed.offload_parameters,
            "offload_param is ZeRO-3's, which alone partitions the weights",
        ),
        (
            stage < 3 and deepspeed.offload_optimizer and deepspeed.grad_dtype != deepspeed.precision,
            "with the optimizer offloaded, gradients are accumulated in the weights' precision; remove"
            f" grad_accum_dtype from {path}, or use ZeRO-3",
        ),
    ]


def _impossible_sizes(layout: Layout, model: ModelConfig) -> list[Condition]:
    """Sizes that cannot be divided as the layout asks."""
    tp, pp, vp = layout.tp, layout.pp, layout.vp
    layers_a_chunk = model.num_layers // (pp * vp)
    return [
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
            layout.recompute_granularity == "full" and layers_a_chunk % layout.recompute_num_layers != 0,
            f"--recompute-num-layers {layout.recompute_num_layers} does not divide the {layers_a_chunk} layers of a"
            " model chunk",
        ),
    ]
