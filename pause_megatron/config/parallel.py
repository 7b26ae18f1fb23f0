"""Parallel layout: how ranks share the model, and the combinations that are refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.errors import UserError

Recomputation = Literal["none", "selective", "full"]
CompileLayers = Literal["auto", "always", "never"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
"""Device of each process. "auto" means GPUs if each process of the node has its own, and otherwise the CPU."""
DEVICE_VARIABLE = "PAUSE_MEGATRON_DEVICE"
"""Environment variable, cpu or cuda, that replaces "auto" in a command and in the processes it starts."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Parallel layout; data parallelism uses the remaining ranks."""

    tensor_model_parallel_size: int = 1
    """Tensor-parallel size: ranks that share each layer's matrices."""
    pipeline_model_parallel_size: int = 1
    """Pipeline stages that share the layers."""
    virtual_pipeline_model_parallel_size: int = 1
    """Model chunks in each stage (interleaved 1F1B schedule; 1: not interleaved)."""
    sequence_parallel: bool = False
    """Also split the activations of the norms over the tensor-parallel ranks, along the sequence."""
    recompute_granularity: Recomputation = "none"
    """Activations to recompute in the backward pass instead of storing them: those of the MLPs (selective), or of
    complete layers from their inputs (full)."""
    recompute_num_layers: int = 1
    """Layers in each block of full recomputation; only the input of a block is stored."""
    compile_layers: CompileLayers = "auto"
    """Compile each layer with torch.compile; auto: on GPUs with a compiler, except under ZeRO-3."""

    def __post_init__(self) -> None:
        require_at_least(1, tensor_model_parallel_size=self.tensor_model_parallel_size)
        require_at_least(1, pipeline_model_parallel_size=self.pipeline_model_parallel_size)
        require_at_least(1, virtual_pipeline_model_parallel_size=self.virtual_pipeline_model_parallel_size)
        require_at_least(1, recompute_num_layers=self.recompute_num_layers)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout for a given world size, equal on every rank."""

    tp: int
    """Tensor-parallel size."""
    pp: int
    """Pipeline-parallel size."""
    vp: int
    """Virtual pipeline size: model chunks in each stage."""
    dp: int
    """Data-parallel size."""
    sequence_parallel: bool
    """False if tp is 1."""
    recompute_granularity: Recomputation = "none"
    recompute_num_layers: int = 1
    compile_layers: CompileLayers = "auto"
    """"auto" depends on the device; ZeRO-3 makes it "never"."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
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
    """Check a layout against the other arguments. Raises :class:`UserError` with the flag to change."""
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    if world_size % (tp * pp):
        raise UserError(
            f"{world_size} processes cannot be divided into --tensor-model-parallel-size {tp} x"
            f" --pipeline-model-parallel-size {pp}: start a multiple of {tp * pp} processes"
        )
    never_compiles = parallel.compile_layers == "auto" and deepspeed.zero_stage == 3
    layout = Layout(
        tp=tp,
        pp=pp,
        vp=parallel.virtual_pipeline_model_parallel_size,
        dp=world_size // (tp * pp),
        sequence_parallel=parallel.sequence_parallel and tp > 1,
        recompute_granularity=parallel.recompute_granularity,
        recompute_num_layers=parallel.recompute_num_layers,
        compile_layers="never" if never_compiles else parallel.compile_layers,
    )
    _refuse(layout, deepspeed, _conflicts_with_deepspeed(layout, deepspeed))
    _refuse(layout, deepspeed, _impossible_sizes(layout, model, padded_vocab_size(vocab_size)))
    return layout


def check_batches(layout: Layout, deepspeed: DeepSpeedFile, *, num_microbatches: int, seq_length: int) -> None:
    """Refuse a ``layout`` that cannot compute ``num_microbatches`` per step or sequences of ``seq_length`` tokens."""
    _refuse(layout, deepspeed, _impossible_batches(layout, num_microbatches, seq_length))


def _refuse(layout: Layout, deepspeed: DeepSpeedFile, reasons: Iterator[str]) -> None:
    for reason in reasons:
        raise UserError(f"{layout} with ZeRO-{deepspeed.zero_stage} ({deepspeed.path.name}): {reason}")


def _conflicts_with_deepspeed(layout: Layout, deepspeed: DeepSpeedFile) -> Iterator[str]:
    """Layouts that exclude ZeRO stages. All other combinations work; ``make layouts`` runs them."""
    stage, path = deepspeed.zero_stage, deepspeed.path
    if stage not in range(4):
        yield f"unknown ZeRO stage; set 0, 1, 2 or 3 in {path}"
    if stage >= 2 and layout.pp > 1:
        yield (
            f"ZeRO-{stage} releases gradients{' and weights' if stage == 3 else ''} after every backward pass, but"
            " pipeline schedules interleave the passes of several microbatches; use a ZeRO-1 file of ds_configs/, or"
            " --pipeline-model-parallel-size 1"
        )
    if stage == 3 and layout.compile_layers == "always":
        yield (
            "ZeRO-3 gathers weights in hooks that torch.compile cannot trace; use --compile-layers auto, or ZeRO-2 or"
            " below"
        )
    if stage == 0 and deepspeed.offload_optimizer:
        yield "DeepSpeed offloads only a partitioned optimizer; use ZeRO-1 or above"
    if stage < 3 and deepspeed.offload_parameters:
        yield f"offload_param requires ZeRO-3, which partitions the weights; remove it from {path}, or use stage 3"
    if stage == 2 and deepspeed.offload_optimizer and deepspeed.grad_dtype != deepspeed.precision:
        yield (
            "an offloaded optimizer accumulates gradients in the precision of the weights; remove grad_accum_dtype from"
            f" {path}, or use ZeRO-1 or ZeRO-3"
        )


def _impossible_sizes(layout: Layout, model: ModelConfig, vocab_rows: int) -> Iterator[str]:
    tp, pp, vp = layout.tp, layout.pp, layout.vp
    if vp > 1 and pp == 1:
        yield "--virtual-pipeline-model-parallel-size needs pipeline stages; give --pipeline-model-parallel-size"
    if model.num_layers % (pp * vp):
        yield f"--num-layers {model.num_layers} is not a multiple of {pp} pipeline stages x {vp} chunks"
    if model.num_attention_heads % tp or model.query_groups % tp:
        yield (
            f"--num-attention-heads {model.num_attention_heads} (key/value heads {model.query_groups}) is not a"
            f" multiple of --tensor-model-parallel-size {tp}"
        )
    if model.ffn_size % tp:
        yield f"the MLP width {model.ffn_size} is not a multiple of {tp}"
    block, layers = layout.recompute_num_layers, model.num_layers // (pp * vp)
    if layout.recompute_granularity == "full" and layers % block:
        yield f"--recompute-num-layers {block} does not divide the {layers} layers of a model chunk"
    if vocab_rows % tp:
        yield f"the padded vocabulary {vocab_rows} is not a multiple of {tp}"


def _impossible_batches(layout: Layout, num_microbatches: int, seq_length: int) -> Iterator[str]:
    if layout.vp > 1 and num_microbatches % layout.pp:
        yield (
            f"the interleaved schedule needs a multiple of {layout.pp} microbatches per step, one for each stage, but"
            f" has {num_microbatches}; change --global-batch-size or --micro-batch-size"
        )
    if layout.sequence_parallel and seq_length % layout.tp:
        yield f"sequences of {seq_length} tokens cannot be split over {layout.tp} ranks; omit --sequence-parallel"
