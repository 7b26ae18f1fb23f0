"""Memory of one process: what the model and its optimizer keep, and the most that activations take beside it."""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.config.deepspeed import DeepSpeedFile
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import Layout
from pause_megatron.costs.activations import Activations
from pause_megatron.costs.model_states import ELEMENT, ModelStates, model_states, stage_parameters


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes of one process of a pipeline stage."""

    stage: int
    """Which stage."""
    states: ModelStates
    """Weights, gradients and optimizer state."""
    activations: int
    """Activations and their gradients, at the worst moment of a step."""

    @property
    def total(self) -> int:
        """Bytes of the device's memory. The update's come when the activations are gone."""
        return self.states.resident + max(self.activations, self.states.update)


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
    """Memory of a process of pipeline stage ``stage``.

    Not counted: the device's own context, NCCL's buffers, workspaces of matrix products, gaps of the allocator.

    Args:
        model: sizes.
        layout: how the model is divided, and what is recomputed.
        deepspeed: ZeRO stage, precision, offloading.
        vocab_size: the tokenizer's.
        seq_length: tokens of a sequence.
        micro_batch_size: sequences of a microbatch.
        num_microbatches: microbatches of a step.
        stage: pipeline stage.
        on_cpu: whether the process computes on a CPU, where PyTorch's RMSNorm keeps more and gloo copies.
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
        states=model_states(parameters, deepspeed, dp=layout.dp, num_microbatches=num_microbatches, on_cpu=on_cpu),
        activations=peak_activations(activations, stage=stage, num_microbatches=num_microbatches),
    )


def peak_activations(one: Activations, *, stage: int, num_microbatches: int) -> int:
    """The most bytes of activations, and gradients of activations, that a process of ``stage`` has at once.

    The worst moment is either at the very end of the model, where the logits are, or within a layer, where recomputed
    activations are back and gradients come to them.
    """
    layout = one.layout
    last_stage = stage == layout.pp - 1
    kept = 0
    for chunk in passes_in_flight(layout, stage=stage, num_microbatches=num_microbatches):
        kept += one.chunk_layers + (one.embeddings if stage == chunk == 0 else 0)
        # The schedule keeps what it has sent on; the last chunk sends nothing.
        kept += 0 if last_stage and chunk == layout.vp - 1 else one.residual
    if layout.vp > 1:  # exchanged ahead of time, in both directions
        kept += 2 * one.residual
    gathered = one.whole_residual if layout.sequence_parallel else 0
    within_layer = one.recomputed + one.mlp_gradients + 2 * one.residual + gathered
    at_end = one.head + 2 * one.whole_residual + (one.residual if gathered else 0)
    # Megatron-core gathers sequences into a buffer that it never gives back.
    return kept + gathered + (max(at_end, within_layer) if last_stage else within_layer)


def passes_in_flight(layout: Layout, *, stage: int, num_microbatches: int) -> list[int]:
    """Chunk of each forward pass a process of ``stage`` has made when it is about to make its first backward pass.

    A pass is one microbatch through one of the stage's chunks. From then on a backward pass follows every forward pass,
    so their number is the most there are. Plain 1F1B: one for each stage from here to the last. Interleaved: the stages
    take turns of ``pp`` microbatches a chunk, and start with two more for each stage that comes after.
    """
    later = layout.pp - 1 - stage
    before_first_backward = 1 + (later if layout.vp == 1 else 2 * later + (layout.vp - 1) * layout.pp)
    passes = min(before_first_backward, num_microbatches * layout.vp)
    return [number // layout.pp % layout.vp for number in range(passes)]
