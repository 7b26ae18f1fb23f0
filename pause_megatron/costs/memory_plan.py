"""Memory of one rank: model states, and the peak of activations."""

from dataclasses import dataclass

from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.costs.activations import Activations
from pause_megatron.costs.model_states import ELEMENT, ModelStates, model_states, stage_parameters

_WORKSPACES = 2 * 32 * 2**20
"""Bytes that PyTorch keeps for cuBLAS on Hopper: 32 MiB in the thread of the forward pass, and in that of the backward
pass. Other GPUs have 8 MiB each."""


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes of one rank of a pipeline stage."""

    stage: int
    """Pipeline stage, from 0."""
    states: ModelStates
    activations: int
    """Activations and their gradients at the peak of a step."""
    workspaces: int
    """Workspaces of matrix products."""

    @property
    def total(self) -> int:
        """Bytes of device memory. The update follows the backward pass, so only the larger of the two peaks counts."""
        return self.states.resident + self.workspaces + max(self.activations, self.states.update)


def stage_memory(
    model: ModelConfig,
    layout: Layout,
    deepspeed: DeepSpeedFile,
    *,
    vocab_size: int,
    seq_length: int,
    micro_batch_size: int,
    num_microbatches: int,
    stage: int,
    on_cpu: bool = False,
) -> StageMemory:
    """Return the memory of a rank of pipeline stage ``stage``.

    Excludes the device's context, NCCL's buffers, and fragmentation of the allocator.
    ``num_microbatches`` is the number per step.
    """
    parameters = stage_parameters(model, layout, vocab_size=vocab_size, stage=stage)
    activations = Activations(
        model=model,
        layout=layout,
        vocab_size=vocab_size,
        sequences=micro_batch_size,
        seq_length=seq_length,
        element=ELEMENT[deepspeed.precision],
        on_cpu=on_cpu,
    )
    return StageMemory(
        stage=stage,
        states=model_states(parameters, deepspeed, dp=layout.dp, num_microbatches=num_microbatches),
        activations=peak_activations(activations, stage=stage, num_microbatches=num_microbatches),
        workspaces=0 if on_cpu else _WORKSPACES,
    )


def peak_activations(one: Activations, *, stage: int, num_microbatches: int) -> int:
    """Return the peak bytes of activations and their gradients on a rank of ``stage``.

    The peak is either at the end of the model (logits), or inside a layer (recomputed activations and gradients).
    """
    layout = one.layout
    last_stage = stage == layout.pp - 1
    kept = 0
    for chunk in passes_in_flight(layout, stage=stage, num_microbatches=num_microbatches):
        kept += one.chunk_layers + (one.embeddings if stage == chunk == 0 else 0)
        # The schedule keeps the output that it sent to the next stage; the last chunk sends nothing.
        kept += 0 if last_stage and chunk == layout.vp - 1 else one.residual
    if layout.vp > 1:  # sent and received ahead of time
        kept += 2 * one.residual
    gathered = one.full_residual if layout.sequence_parallel else 0
    within_layer = one.recomputed + one.mlp_gradients + 2 * one.residual + gathered
    at_end = one.head + 2 * one.full_residual + (one.residual if gathered else 0)
    # Megatron-core gathers sequences into a buffer that it never frees.
    return kept + gathered + (max(at_end, within_layer) if last_stage else within_layer)


def passes_in_flight(layout: Layout, *, stage: int, num_microbatches: int) -> list[int]:
    """Return the chunks of the forward passes that a rank of ``stage`` runs before its first backward pass, in order.

    A forward pass is one microbatch through one chunk. After these, forward and backward passes alternate, so their
    number is the maximum in flight. For example, under 1F1B stage 1 of 4 has 3 (one per stage from it to the last), and
    returns ``[0, 0, 0]``. The interleaved schedule runs ``pp`` microbatches per chunk in turn, and starts with two more
    for each later stage.
    """
    later = layout.pp - 1 - stage
    before_first_backward = 1 + (later if layout.vp == 1 else 2 * later + (layout.vp - 1) * layout.pp)
    passes = min(before_first_backward, num_microbatches * layout.vp)
    return [number // layout.pp % layout.vp for number in range(passes)]
