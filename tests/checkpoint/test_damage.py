"""A run whose newest checkpoint is damaged warns and resumes from the previous one; it never restarts silently."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST
from pause_megatron.config.training import CheckpointConfig
from tests.checkpoint.handmade import cut_short, flip_bit, rewrite_manifest
from tests.checkpoint.loops import Loop, Outcome, errors_of, iteration_folder, run_loops
from tests.distributed import run_distributed
from tests.training.runs import GPT2, Run

INTERVAL, BEFORE, NEWEST, END = 3, 3, 6, 7
SHARD_0, SHARD_1 = "rank00000.safetensors", "rank00001.safetensors"
SAVING = CheckpointConfig(save_interval=INTERVAL)


def change_state(path: Path) -> None:
    rewrite_manifest(path.parent, lambda content: content["state"].update(iteration=1000), seal=False)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flip_bit, SHARD_1),
    "a missing shard": (Path.unlink, SHARD_0),
    "a truncated shard": (cut_short, SHARD_1),
    "a truncated manifest": (cut_short, MANIFEST),
    "a missing manifest": (Path.unlink, MANIFEST),
    "an empty manifest": (lambda path: path.write_bytes(b""), MANIFEST),
    "a changed manifest": (change_state, MANIFEST),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run on two processes with two checkpoints, and its outcome."""
    folder = tmp_path_factory.mktemp("saved")
    outcome = run_distributed(run_loops, 2, [Loop(run=Run(last_step=END), folder=folder, checkpoint=SAVING)])[0][0]
    return folder, outcome


@pytest.fixture(scope="module")
def resumed(saved: tuple[Path, Outcome], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """Resumed copies of the run, each with one kind of damage to the newest checkpoint, and one without damage."""
    folders = {name: tmp_path_factory.mktemp("damaged") / "run" for name in [*DAMAGES, "none"]}
    for name, folder in folders.items():
        shutil.copytree(saved[0], folder)
        if name in DAMAGES:
            damage, file = DAMAGES[name]
            damage(iteration_folder(folder, NEWEST) / file)
    loops = [Loop(run=Run(seed=99, last_step=END), folder=folder) for folder in folders.values()]
    outcomes = run_distributed(run_loops, 2, loops)[0]
    return {name: (folders[name], outcome) for name, outcome in zip(folders, outcomes, strict=True)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_run_resumes_from_the_previous_checkpoint(
    saved: tuple[Path, Outcome], resumed: dict[str, tuple[Path, Outcome]], damage: str
) -> None:
    folder, outcome = resumed[damage]
    assert outcome.resumed == BEFORE
    assert outcome.curve == saved[1].curve[BEFORE:]
    aside = Path(f"{iteration_folder(folder, NEWEST)}.damaged")
    (warning,) = outcome.warnings
    assert f"{iteration_folder(folder, NEWEST) / DAMAGES[damage][1]}: " in warning
    assert f"renamed the folder to {aside.name}" in warning
    assert not iteration_folder(folder, NEWEST).exists()
    assert len(list(aside.iterdir())) == (2 if "missing" in damage else 3)


def test_undamaged_run_resumes_from_the_newest_checkpoint(
    saved: tuple[Path, Outcome], resumed: dict[str, tuple[Path, Outcome]]
) -> None:
    _, outcome = resumed["none"]
    assert outcome.resumed == NEWEST
    assert outcome.curve == saved[1].curve[NEWEST:]
    assert outcome.warnings == []


def test_run_with_only_damaged_checkpoints_is_refused_every_time(saved: tuple[Path, Outcome], tmp_path: Path) -> None:
    folder, older = tmp_path / "run", tmp_path / "older"
    shutil.copytree(saved[0], folder)
    shutil.copytree(saved[0], older)
    flip_bit(iteration_folder(folder, NEWEST) / SHARD_0)
    flip_bit(iteration_folder(folder, BEFORE) / SHARD_1)
    rewrite_manifest(iteration_folder(older, NEWEST), lambda content: content.update(format="pause_megatron/1"))
    loop = Loop(folder=folder)
    another_model = Run(model=replace(GPT2, hidden_size=32))
    loops = [loop, loop, Loop(folder=older), Loop(run=another_model, folder=saved[0])]
    for errors in run_distributed(errors_of, 2, loops):
        for error in errors[:2]:
            assert error.startswith(
                f"{folder / CHECKPOINTS}: all checkpoints are damaged (iter_0000003.damaged, iter_0000006"
            )
        assert "format 'pause_megatron/1'" in errors[2]
        assert ": checkpoint of another model (embedding.word_embeddings.weight has shape [256, 64]" in errors[3]
    for iteration in (BEFORE, NEWEST):
        assert iteration_folder(older, iteration).exists()
        assert iteration_folder(saved[0], iteration).exists()
