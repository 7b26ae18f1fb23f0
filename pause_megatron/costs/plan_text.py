"""Formats a plan as text for a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pause_megatron.config.model import padded_vocab_size
from pause_megatron.config.parallel import Layout
from pause_megatron.costs.model_states import stage_parameters
from pause_megatron.costs.plan import USABLE, PlannedRun, ScalePlan, advice
from pause_megatron.errors import UserError

GIB = 2**30
_UNKNOWN = "?"


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Devices of a plan."""

    name: str
    peak_tflops: float | None
    """Peak rate of one device in the run's precision; None if unknown."""
    memory_bytes: int | None
    """Memory of one device; None if unknown."""


def plan_lines(
    run: PlannedRun, scales: dict[int, ScalePlan | UserError], hardware: Hardware, *, mfu: float
) -> Iterator[str]:
    """Yield the lines of a plan for ``run``; ``scales`` maps numbers of devices to their plans."""
    possible = {number: scale for number, scale in scales.items() if isinstance(scale, ScalePlan)}
    yield from _run_lines(run, hardware)
    if possible:
        yield from ("", *_parameter_lines(run, next(iter(possible.values())).layout))
        yield from ("", *_memory_lines(possible, hardware))
    yield from ("", f"time at {mfu:.0%} of the devices' peak, plus pipeline bubbles and recomputation")
    yield from _time_lines(scales, hardware, mfu)
    for number, scale in possible.items():
        if hardware.memory_bytes and not scale.fits(hardware.memory_bytes):
            yield from ("", _warning(number, scale, hardware.memory_bytes))


def _run_lines(run: PlannedRun, hardware: Hardware) -> Iterator[str]:
    model, training, flops = run.model, run.training, run.flops_of_a_sequence
    parameters = model.num_parameters(run.vocab_size)
    tied = "untied" if model.untie_embeddings_and_output_weights else "tied"
    width = f" of width {model.head_dim}" if model.kv_channels else ""
    groups = f" ({model.query_groups} key/value heads)" if model.num_query_groups else ""
    padded = padded_vocab_size(run.vocab_size)
    padding = f" (computed as {padded:,})" if padded != run.vocab_size else ""
    ramp = f", after a ramp-up from {training.rampup_batch_size[0]:,}" if training.rampup_batch_size else ""
    step = training.global_batch_size * run.seq_length
    peak = f"{hardware.peak_tflops:,g} TFLOP/s in {run.deepspeed.precision}" if hardware.peak_tflops else "peak unknown"
    memory = f"{hardware.memory_bytes / GIB:,.0f} GiB" if hardware.memory_bytes else "memory unknown"
    yield (
        f"model       {model.architecture}, {model.num_layers} layers of width {model.hidden_size:,}, MLP"
        f" {model.ffn_size:,}, {model.num_attention_heads} heads{width}{groups}"
    )
    yield (f"            {parameters:,} parameters; vocabulary {run.vocab_size:,}{padding}, embeddings {tied}")
    yield f"optimizer   ZeRO-{run.deepspeed.zero_stage}, {run.deepspeed.precision} ({run.deepspeed.path.name})"
    yield (
        f"run         {_large(run.tokens)} tokens, in {training.train_iters:,} steps of"
        f" {training.global_batch_size:,} x {run.seq_length:,} = {step:,}{ramp}"
    )
    yield (
        f"operations  {_large(flops.model // run.seq_length)} per token, forward and backward: {run.flops:.3g} in total"
        f" (6 x parameters x tokens: {6 * parameters * run.tokens:.3g})"
    )
    yield (
        f"            {3 * flops.forward.causal * run.samples:.3g} with half of the attention (causal);"
        f" {flops.hardware * run.samples:.3g} with recomputation"
    )
    yield f"device      {hardware.name}: {peak}, {memory}"


def _parameter_lines(run: PlannedRun, layout: Layout) -> Iterator[str]:
    held = [
        stage_parameters(run.model, layout, vocab_size=run.vocab_size, stage=stage).total for stage in range(layout.pp)
    ]
    if layout.pp == 1:
        yield f"parameters  {held[0]:,} on every rank"
        return
    most, least = max(held), min(held)
    yield f"parameters  {most:,} at most, on each rank of pipeline stage {held.index(most) + 1} of {layout.pp}"
    yield f"            {least:,} at least, on stage {held.index(least) + 1}"


def _memory_lines(scales: dict[int, ScalePlan], hardware: Hardware) -> Iterator[str]:
    worst = [scale.worst for scale in scales.values()]
    pipelined = next(iter(scales.values())).layout.pp > 1
    rows = [
        ("weights", [memory.states.weights for memory in worst]),
        ("gradients", [memory.states.gradients for memory in worst]),
        ("optimizer state", [memory.states.optimizer for memory in worst]),
        ("communication", [memory.states.communication for memory in worst]),
        ("activations", [memory.activations for memory in worst]),
        ("workspaces", [memory.workspaces for memory in worst]),
        ("update, if more", [memory.states.update for memory in worst]),
        ("total", [memory.total for memory in worst]),
        ("CPU memory", [memory.states.host for memory in worst]),
    ]
    yield "GiB per GPU" + (", on the pipeline stage that needs the most" if pipelined else "")
    yield _row("", [f"{number:,} GPUs" for number in scales])
    if pipelined:
        yield _row("stage", [f"{memory.stage + 1}" for memory in worst])
    for name, values in rows:
        if any(values):
            yield _row(name, [f"{value / GIB:,.2f}" for value in values])
    if hardware.memory_bytes:
        usable = USABLE * hardware.memory_bytes
        yield _row(f"of {usable / GIB:,.0f} usable", [f"{memory.total / usable:.0%}" for memory in worst])


def _time_lines(scales: dict[int, ScalePlan | UserError], hardware: Hardware, mfu: float) -> Iterator[str]:
    yield "      GPUs  data-parallel  microbatches pipeline bubble     tokens/s       days    GPU-hours"
    for number, scale in scales.items():
        if isinstance(scale, UserError):
            yield f"{number:>10,}  no: {scale}"
            continue
        divided = f"{number:>10,}{scale.layout.dp:>15,}{scale.num_microbatches:>14,}{scale.waiting:>16.1%}"
        if not hardware.peak_tflops:
            yield divided + f"{_UNKNOWN:>13}{_UNKNOWN:>11}{_UNKNOWN:>13}"
            continue
        seconds = scale.seconds(peak_tflops=hardware.peak_tflops, mfu=mfu)
        hours = seconds / 3600
        yield divided + f"{scale.run.tokens / seconds:>13,.0f}{amount(hours / 24):>11}{amount(hours * number):>13}"


def _warning(number: int, scale: ScalePlan, memory_bytes: int) -> str:
    stage = f" on stage {scale.worst.stage + 1}" if scale.layout.pp > 1 else ""
    return (
        f"warning: {number:,} GPUs: needs {scale.worst.total / GIB:,.1f} GiB{stage}, but about"
        f" {USABLE * memory_bytes / GIB:,.0f} of a device's {memory_bytes / GIB:,.0f} GiB are usable; try"
        f" {', '.join(advice(scale))}"
    )


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<16}" + "".join(f"{cell:>12}" for cell in cells)


def amount(number: float) -> str:
    """Format three significant digits, but all digits before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _large(number: float) -> str:
    """Format three digits and a word, for example "200 billion"."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"
