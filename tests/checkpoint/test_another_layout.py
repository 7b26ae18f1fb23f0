"""A run that resumes under another layout, and later under the first one again, has the same losses."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.training import CheckpointConfig
from tests.checkpoint.loops import Curve, Loop, Outcome, iteration_folder, run_loops
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, Run, largest_differences

SAVED, AGAIN, END = 4, 6, 8
TOLERANCE = 1e-5
MODELS = {"tied gpt2": replace(GPT2, untie_embeddings_and_output_weights=False), "llama": LLAMA}
TP2_PP2 = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
SAVING = CheckpointConfig(save_interval=AGAIN - SAVED)
LAYOUTS: dict[str, tuple[int, Run]] = {
    "PP2": (2, Run(parallel=ParallelConfig(pipeline_model_parallel_size=2))),
    "DP2 ZeRO-0": (2, Run(zero_stage=0)),
    "DP2 ZeRO-2": (2, Run(zero_stage=2)),
    "DP2 ZeRO-3": (2, Run(zero_stage=3)),
    "one process": (1, Run()),
}
"""Number of processes, and layout."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Loss curves of one model."""

    alone: Curve
    """One process, not interrupted."""
    together: Curve
    """TP 2, PP 2, not interrupted."""
    same: Curve
    """TP 2, PP 2, resumed in the middle."""
    there: dict[str, Curve]
    """Another layout, resumed in the middle."""
    back: dict[str, Curve]
    """TP 2, PP 2, resumed from a checkpoint of the other layout."""
    without_moments: Curve
    """One process, resumed in the middle with Adam's moments set to zero."""


@pytest.fixture(scope="module", params=["tied gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Save in the middle, resume under each layout, save there, and resume under the first layout."""
    folder = tmp_path_factory.mktemp("trial")
    loops = plan(MODELS[request.param], folder)
    together = run_all(4, loops["together"])
    for copy in ("same", "without moments", *LAYOUTS):
        shutil.copytree(iteration_folder(folder / "together", SAVED), iteration_folder(folder / copy, SAVED))
    two, one, back = run_all(2, loops["two"]), run_all(1, loops["one"]), run_all(4, loops["back"])
    there = two | one
    return Trial(
        alone=one[folder / "alone"],
        together=together[folder / "together"],
        same=back[folder / "same"],
        there={layout: there[folder / layout] for layout in LAYOUTS},
        back={layout: back[folder / layout] for layout in LAYOUTS},
        without_moments=one[folder / "without moments"],
    )


def plan(model: ModelConfig, folder: Path) -> dict[str, list[Loop]]:
    """Loops of one model in the order of :func:`trials`; those that resume start from other random weights."""
    whole = Run(model=model, parallel=TP2_PP2, last_step=END)
    resumed = replace(whole, seed=99)
    there = {
        size: [
            Loop(run=replace(run, model=model, seed=99, last_step=AGAIN), folder=folder / name, checkpoint=SAVING)
            for name, (processes, run) in LAYOUTS.items()
            if processes == size
        ]
        for size in (1, 2)
    }
    control = Loop(run=Run(model=model, seed=99, last_step=END), folder=folder / "without moments", drop_moments=True)
    return {
        "together": [Loop(run=whole, folder=folder / "together", checkpoint=CheckpointConfig(save_interval=SAVED))],
        "two": there[2],
        "one": [Loop(run=Run(model=model, last_step=END), folder=folder / "alone"), control, *there[1]],
        "back": [Loop(run=resumed, folder=folder / name) for name in ("same", *LAYOUTS)],
    }


def run_all(world_size: int, loops: list[Loop]) -> dict[Path, Curve]:
    outcomes: list[Outcome] = run_distributed(run_loops, world_size, loops)[0]
    return {loop.folder: outcome.curve for loop, outcome in zip(loops, outcomes, strict=True)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_match_under_another_layout_and_back(trial: Trial, layout: str) -> None:
    assert max(largest_differences(trial.alone[SAVED:AGAIN], trial.there[layout])) <= TOLERANCE
    assert max(largest_differences(trial.alone[AGAIN:], trial.back[layout])) <= TOLERANCE


def test_dropped_moments_change_the_losses(trial: Trial) -> None:
    assert largest_differences(trial.alone[SAVED:], trial.without_moments)[0] > 100 * TOLERANCE


def test_resume_under_tensor_and_pipeline_parallelism_is_bit_exact(trial: Trial) -> None:
    assert trial.same == trial.together[SAVED:]
