"""Errors of differences of held-out losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pause_megatron.records.pretraining import ValidationRecord
from pause_megatron.report.collect import PretrainRun, read_run
from pause_megatron.report.paired_losses import loss_difference
from tests.report.inputs import write_run

DATASET = "held-out"
BLOCKS = 40


def made_up(run: PretrainRun, blocks: np.ndarray, targets: tuple[int, ...]) -> PretrainRun:
    """``run`` with one validation that found these losses of blocks."""
    record = ValidationRecord(
        loss=float(np.average(blocks, weights=targets)),
        perplexity=1.0,
        iteration=400,
        dataset=DATASET,
        pauses="none",
        real_tokens=sum(targets),
        block_losses=tuple(blocks.tolist()),
        block_targets=targets,
    )
    return replace(run, validation=(record,))


def test_interval_over_text_covers_the_true_difference_as_often_as_it_says(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    generator, covered, drawn = np.random.default_rng(5), 0, 1000
    for _ in range(drawn):
        targets = tuple(generator.integers(200, 300, BLOCKS).tolist())
        text = generator.normal(3, 0.5, BLOCKS)  # blocks are easy or hard for both models
        one, other = (text + shift + generator.normal(0, 0.05, BLOCKS) for shift in (-0.02, 0.0))
        found = loss_difference([made_up(run, one, targets)], [made_up(run, other, targets)], DATASET)
        assert found is not None
        assert found.uncertainty is not None
        covered += abs(found.value + 0.02) <= found.uncertainty.margin
    assert 0.93 <= covered / drawn <= 0.97


def test_other_blocks_give_a_difference_without_an_error(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    one, other = made_up(run, np.ones(2), (5, 5)), made_up(run, np.zeros(2), (4, 6))
    found = loss_difference([one], [other], DATASET)
    assert found is not None
    assert found.value == 1.0
    assert found.uncertainty is None
    assert loss_difference([one], [other], "other text") is None


def test_scatter_of_pretraining_seeds_widens_the_interval(tmp_path: Path) -> None:
    run, generator = read_run(write_run(tmp_path / "run")), np.random.default_rng(1)
    targets, text = (250,) * BLOCKS, generator.normal(3, 0.5, BLOCKS)
    models: dict[float, list[PretrainRun]] = {}
    for scatter in (0.0, 0.1):
        models[scatter] = []
        for seed in range(3):
            noise = generator.normal(0, 0.01, BLOCKS)
            seeded = replace(run, record=replace(run.record, seed=seed))
            models[scatter].append(made_up(seeded, text + scatter * (seed - 1) + noise, targets))
    same, wider = (loss_difference(models[scatter], models[0.0], DATASET) for scatter in (0.0, 0.1))
    assert same is not None
    assert wider is not None
    assert same.uncertainty is not None
    assert wider.uncertainty is not None
    assert wider.uncertainty.margin > 0.2 > same.uncertainty.margin


def test_models_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    seeded = [made_up(replace(run, record=replace(run.record, seed=seed)), np.ones(2), (5, 5)) for seed in range(4)]
    assert loss_difference(seeded[:2], seeded[2:], DATASET) is None
