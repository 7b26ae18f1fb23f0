"""A run saved under one layout continues under another as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pause_megatron.checkpoint.format import CheckpointReader, find_checkpoint, latest_checkpoint
from pause_megatron.checkpoint.names import MANIFEST
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.errors import UserError
from tests.distributed import run_distributed
from tests.training.runs import STEPS, Run, largest_differences, train

HALF = STEPS // 2
TOLERANCE = 1e-5
TP2 = ParallelConfig(tensor_model_parallel_size=2)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)


@pytest.fixture(scope="module")
def uninterrupted() -> list[tuple[float, float]]:
    return run_distributed(train, 1, Run())[0]


@pytest.fixture(scope="module")
def saved_at_tp2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    run_distributed(train, 2, Run(parallel=TP2, last_step=HALF, save=run / "checkpoints"))
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize(
    ("world_size", "parallel", "zero_stage"),
    [(2, TP2, 1), (2, PP2, 1), (1, ParallelConfig(), 1), (2, ParallelConfig(), 2), (2, ParallelConfig(), 3)],
    ids=["TP2", "PP2", "one process", "DP2 ZeRO-2", "DP2 ZeRO-3"],
)
def test_loss_curve_continues_under_another_layout(
    uninterrupted: list[tuple[float, float]],
    saved_at_tp2: Path,
    world_size: int,
    parallel: ParallelConfig,
    zero_stage: int,
) -> None:
    # Another seed: what is not loaded would show.
    resumed = Run(parallel=parallel, zero_stage=zero_stage, seed=99, first_step=HALF, load=saved_at_tp2)
    found = run_distributed(train, world_size, resumed)[0]
    assert max(largest_differences(uninterrupted[HALF:], found)) <= TOLERANCE


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_partitioned_optimizer_states_are_saved_whole(
    uninterrupted: list[tuple[float, float]], tmp_path: Path, zero_stage: int
) -> None:
    run_distributed(train, 2, Run(zero_stage=zero_stage, last_step=HALF, save=tmp_path / "checkpoints"))
    resumed = Run(seed=99, first_step=HALF, load=latest_checkpoint(tmp_path))
    found = run_distributed(train, 1, resumed)[0]
    assert max(largest_differences(uninterrupted[HALF:], found)) <= TOLERANCE


def test_resume_under_the_same_layout_is_bit_exact(tmp_path: Path) -> None:
    whole = run_distributed(train, 2, Run(parallel=TP2))[0]
    run_distributed(train, 2, Run(parallel=TP2, last_step=HALF, save=tmp_path / "checkpoints"))
    resumed = Run(parallel=TP2, seed=99, first_step=HALF, load=latest_checkpoint(tmp_path))
    assert run_distributed(train, 2, resumed)[0] == whole[HALF:]


def test_flipped_bit_is_found(saved_at_tp2: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "iter_0000010"
    damaged.mkdir()
    for file in saved_at_tp2.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    victim = damaged / "rank00001.safetensors"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(UserError, match=r"rank00001\.safetensors: damaged"):
        CheckpointReader(damaged).verify()
    victim.unlink()
    with pytest.raises(UserError, match=r"rank00001\.safetensors: missing"):
        CheckpointReader(damaged).verify()


def test_folder_without_manifest_is_no_checkpoint(saved_at_tp2: Path, tmp_path: Path) -> None:
    torn = tmp_path / "checkpoints" / "iter_0000010"
    torn.mkdir(parents=True)
    with pytest.raises(UserError, match="half-written"):
        find_checkpoint(torn)
    with pytest.raises(UserError, match="no complete checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere")
    manifest = json.loads((saved_at_tp2 / MANIFEST).read_text()) | {"format": "other"}
    (torn / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="format 'other'"):
        CheckpointReader(torn)
