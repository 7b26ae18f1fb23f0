"""Comparison of every layout of up to four ranks with one rank.

``make layouts`` measures all layouts and writes docs/layouts.md; the test suite measures some.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.errors import UserError
from pause_megatron.versions import versions
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, STEPS, VOCAB_SIZE, Run, largest_differences, train_all

TOLERANCE = 1e-5
"""Largest difference accepted over 20 steps: of losses, and of gradient norms relative to them."""
MODELS = {"gpt2": GPT2, "gpt2 tied": replace(GPT2, untie_embeddings_and_output_weights=False), "llama": LLAMA}
WORLD_SIZES = (1, 2, 4)
_RUNS_AT_ONCE = 6
DOCUMENT = Path(__file__).parents[2] / "docs" / "layouts.md"
KEPT = "<!-- `make layouts` writes everything above this line and keeps the rest. -->"


@dataclass(frozen=True, kw_only=True)
class LayoutResult:
    """Differences of one layout from one rank, or the reason for its refusal."""

    layout: str
    zero_stage: int
    loss_difference: float = 0.0
    """Largest absolute difference of a loss, on any rank."""
    norm_difference: float = 0.0
    """Largest relative difference of a gradient norm."""
    refusal: str = ""
    """Reason for the refusal; empty for a supported layout."""


def candidates(world_size: int) -> Iterator[ParallelConfig]:
    """Yield every tensor and pipeline layout of ``world_size`` ranks; data parallelism uses the remaining ranks."""
    sizes = [size for size in (1, 2, 4) if world_size % size == 0]
    for tp, pp, vp, sequence_parallel in itertools.product(sizes, sizes, (1, 2), (False, True)):
        if world_size % (tp * pp) == 0 and (pp > 1 or vp == 1) and (tp > 1 or not sequence_parallel):
            yield ParallelConfig(
                tensor_model_parallel_size=tp,
                pipeline_model_parallel_size=pp,
                virtual_pipeline_model_parallel_size=vp,
                sequence_parallel=sequence_parallel,
            )


Curve = list[tuple[float, float]]
"""Loss and gradient norm of every step."""


def measure(model: ModelConfig, world_size: int) -> list[LayoutResult]:
    """Compare all candidates under ZeRO-0 to ZeRO-3 with the losses and norms of one rank."""
    refused, allowed = [], []
    for parallel, zero_stage in itertools.product(candidates(world_size), range(4)):
        run = Run(model=_with_enough_layers(model, parallel), parallel=parallel, zero_stage=zero_stage, last_step=STEPS)
        try:
            layout = resolve_layout(
                parallel, world_size=world_size, model=run.model, vocab_size=VOCAB_SIZE, deepspeed=run.deepspeed_file
            )
        except UserError as error:
            layout_name, _, reason = str(error).partition(f" with ZeRO-{zero_stage} (test.json): ")
            refused.append(LayoutResult(layout=layout_name, zero_stage=zero_stage, refusal=reason))
        else:
            allowed.append((str(layout), run))
    return [*_compare(allowed, world_size), *refused]


def _with_enough_layers(model: ModelConfig, parallel: ParallelConfig) -> ModelConfig:
    """``model``, with more layers if it has too few for ``parallel``."""
    chunks = parallel.pipeline_model_parallel_size * parallel.virtual_pipeline_model_parallel_size
    return replace(model, num_layers=max(model.num_layers, chunks))


def _compare(named: list[tuple[str, Run]], world_size: int) -> Iterator[LayoutResult]:
    for start in range(0, len(named), _RUNS_AT_ONCE):
        some = named[start : start + _RUNS_AT_ONCE]
        by_process = run_distributed(train_all, world_size, [run for _, run in some])
        for (layout, run), *curves in zip(some, *by_process, strict=True):
            reference = reference_curve(run.model, STEPS)
            losses, norms = zip(*(largest_differences(reference, curve) for curve in curves), strict=True)
            yield LayoutResult(
                layout=layout, zero_stage=run.zero_stage, loss_difference=max(losses), norm_difference=max(norms)
            )


@cache
def reference_curve(model: ModelConfig, steps: int) -> Curve:
    """Reference curve: one rank."""
    losses: Curve = run_distributed(train_all, 1, [Run(model=model, last_step=steps)])[0][0]
    return losses


def document(rows: dict[str, list[LayoutResult]]) -> str:
    """The measured part of the page as Markdown; ``rows`` by model."""
    lines = [
        "# Layouts",
        "",
        "This page shows which parallel layouts you can combine with which ZeRO stage, and how closely each one agrees",
        "with training on one rank. `make layouts` writes it, and fails if a difference exceeds the tolerance.",
        "",
        f"Each layout trained for {STEPS} steps on gloo in fp32, from the same weights on the same global",
        "batches, with 0 to 90 % pauses in a sequence. *loss* is the largest absolute difference from the loss",
        "on one rank, in any step on any rank (one unit in the last place is 4.8e-7). *norm* is the largest",
        f"relative difference of a gradient norm. Both must be at most {TOLERANCE:g}. For example, the row",
        '"TP 2 · PP 1 · DP 2 · SP" uses 4 ranks: tensor parallelism over 2 with sequence parallelism, and data',
        "parallelism over 2.",
        "",
        ", ".join(f"{name} {version}" for name, version in versions().items()) + ".",
        "",
    ]
    by_layout: dict[tuple[str, int], dict[str, LayoutResult]] = {}
    for model, of_model in rows.items():
        for row in of_model:
            by_layout.setdefault((row.layout, row.zero_stage), {})[model] = row
    heads = [f"{model}: loss | norm" for model in rows]
    lines += ["| layout | ZeRO | " + " | ".join(heads) + " |", "|---|---" + "|---:|---:" * len(rows) + "|"]
    reasons: dict[str, list[str]] = {}
    for (layout, stage), of_models in by_layout.items():
        first = next(iter(of_models.values()))
        if first.refusal:
            reasons.setdefault(first.refusal, []).append(f"{layout} with ZeRO-{stage}")
            continue
        cells = [f"{of_models[model].loss_difference:.1e} | {of_models[model].norm_difference:.1e}" for model in rows]
        lines.append(f"| {layout} | {stage} | " + " | ".join(cells) + " |")
    lines += ["", "Refused before any process group exists:", ""]
    for reason, layouts in reasons.items():
        lines.append(f"- {', '.join(layouts)}: {reason}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything and write the document."""
    rows: dict[str, list[LayoutResult]] = {}
    for name, model in MODELS.items():
        rows[name] = [row for world_size in WORLD_SIZES for row in measure(model, world_size)]
    _, _, kept = DOCUMENT.read_text(encoding="utf-8").partition(KEPT)
    DOCUMENT.write_text(f"{document(rows)}\n{KEPT}{kept}", encoding="utf-8")
    worst = max(max(row.loss_difference, row.norm_difference) for of_model in rows.values() for row in of_model)
    sys.exit(f"a difference of {worst:.1e} is above {TOLERANCE:g}: see {DOCUMENT}" if worst > TOLERANCE else 0)


if __name__ == "__main__":
    main()
