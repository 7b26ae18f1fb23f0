"""Plan of a run: its layout, memory and duration on different numbers of GPUs."""

from dataclasses import dataclass

from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout, ParallelConfig, check_batches, resolve_layout
from pause_megatron.config.training import TrainingConfig
from pause_megatron.costs.flops import TrainingFlops, training_flops
from pause_megatron.costs.memory_plan import StageMemory, stage_memory
from pause_megatron.errors import UserError

USABLE = 0.9
"""Fraction of a device's memory that a plan may fill; the rest is for contexts, NCCL and fragmentation."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run, independent of the number of devices."""

    model: ModelConfig
    parallel: ParallelConfig
    training: TrainingConfig
    deepspeed: DeepSpeedFile
    vocab_size: int
    """Size of the tokenizer's vocabulary."""
    seq_length: int
    samples: int
    """Sequences of the complete run."""

    @property
    def tokens(self) -> int:
        """Tokens of the complete run, with pauses."""
        return self.samples * self.seq_length

    @property
    def flops_of_a_sequence(self) -> TrainingFlops:
        """Operations of training on one sequence."""
        return training_flops(
            self.model,
            vocab_size=self.vocab_size,
            seq_length=self.seq_length,
            recompute_granularity=self.parallel.recompute_granularity,
        )

    @property
    def flops(self) -> int:
        """Model operations of the complete run, without recomputation."""
        return self.samples * self.flops_of_a_sequence.model


@dataclass(frozen=True, kw_only=True)
class ScalePlan:
    """Plan of a run for one number of devices."""

    run: PlannedRun
    layout: Layout
    num_microbatches: int
    """Microbatches per rank in a step with the full batch size."""
    stages: tuple[StageMemory, ...]
    """Memory of a rank of each pipeline stage."""

    @property
    def worst(self) -> StageMemory:
        """Stage that needs the most memory."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def waiting(self) -> float:
        """Fraction of a step in which a device waits for other pipeline stages (bubble), if all take equally long."""
        filling = self.layout.pp - 1
        return filling / (self.layout.vp * self.num_microbatches + filling)

    def fits(self, memory_bytes: int) -> bool:
        """Return whether a device with ``memory_bytes`` has enough memory."""
        return self.worst.total <= USABLE * memory_bytes

    def seconds(self, *, peak_tflops: float, mfu: float) -> float:
        """Return the duration of the run in seconds.

        ``mfu`` is the utilization without pipeline bubbles and recomputation; both are added.
        """
        flops = self.run.flops + self.run.samples * self.run.flops_of_a_sequence.recomputed
        return flops / (self.layout.world_size * peak_tflops * 1e12 * mfu * (1 - self.waiting))


def plan_scale(run: PlannedRun, num_gpus: int) -> ScalePlan | UserError:
    """Plan the run on ``num_gpus`` devices; return the error if the run is impossible on them."""
    training = run.training
    try:
        layout = resolve_layout(
            run.parallel, world_size=num_gpus, model=run.model, vocab_size=run.vocab_size, deepspeed=run.deepspeed
        )
        for batch_size in training.batch_sizes():  # the last one is the full batch size
            num_microbatches = training.num_microbatches(layout.dp, batch_size)
            check_batches(layout, run.deepspeed, num_microbatches=num_microbatches, seq_length=run.seq_length)
    except UserError as error:
        return error
    stages = (
        stage_memory(
            run.model,
            layout,
            run.deepspeed,
            vocab_size=run.vocab_size,
            seq_length=run.seq_length,
            micro_batch_size=training.micro_batch_size,
            num_microbatches=num_microbatches,
            stage=stage,
        )
        for stage in range(layout.pp)
    )
    return ScalePlan(run=run, layout=layout, num_microbatches=num_microbatches, stages=tuple(stages))


def advice(scale: ScalePlan) -> list[str]:
    """Return flags that lower the memory of the stage that needs most; those for its largest part come first."""
    memory, layout, deepspeed = scale.worst, scale.layout, scale.run.deepspeed
    for_activations = [
        (scale.run.training.micro_batch_size > 1, "a smaller --micro-batch-size"),
        (layout.tp > 1 and not layout.sequence_parallel, "--sequence-parallel"),
        (layout.recompute_granularity == "none", "--recompute-granularity selective"),
        (layout.recompute_granularity != "full", "--recompute-granularity full"),
    ]
    for_states = [
        (deepspeed.zero_stage == 0 and layout.dp > 1, "a ZeRO-1 file for --deepspeed"),
        (deepspeed.zero_stage in (1, 2) and layout.dp > 1 and layout.pp == 1, "a ZeRO-3 file for --deepspeed"),
        (not deepspeed.offload_optimizer, "a --deepspeed file that offloads the optimizer"),
        (True, "a larger --tensor-model-parallel-size or --pipeline-model-parallel-size"),
    ]
    activations_first = memory.activations > memory.states.resident
    ordered = for_activations + for_states if activations_first else for_states + for_activations
    return [flag for applies, flag in ordered if applies]
