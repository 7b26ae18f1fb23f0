"""How many microbatches a pipeline stage holds activations of, under Megatron-core's schedules."""

from __future__ import annotations

from pause_megatron.config.parallel import Layout


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
