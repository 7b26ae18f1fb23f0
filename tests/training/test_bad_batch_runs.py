"""Runs with bad batches: the optimizer does not move, and the run stops or skips the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pause_megatron.checkpoint.checkpoint_manifest import STATE_KEYS
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import CheckpointConfig, FaultsConfig, LoggingConfig, TrainingConfig
from pause_megatron.errors import UserError
from pause_megatron.log import read_json_lines
from pause_megatron.training.pretrain import pretrain
from pause_megatron.training.run import PretrainRun
from pause_megatron.training.step_report import Flags
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer
from tests.distributed import run_distributed
from tests.quick import others_slow
from tests.training.runs import Run

BAD_STEP = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A small data-parallel run that drops bad batches and saves after every step."""
    folder = tmp_path_factory.mktemp("bad-batches")
    write_text_and_tokenizer(folder)
    return PretrainConfig(
        data=(str(write_dataset(folder, "pause")),),
        tokenizer=folder / "tokenizer",
        deepspeed=folder,
        output=folder / "run",
        model=ModelConfig(num_layers=1, hidden_size=32, num_attention_heads=4, max_position_embeddings=SEQ_LENGTH),
        training=TrainingConfig(train_iters=4, global_batch_size=4),
        checkpoint=CheckpointConfig(save_interval=1, keep_checkpoints=9),
        faults=FaultsConfig(on_bad_batch="skip"),
        logging=LoggingConfig(log_interval=1),
    )


def with_stage(config: PretrainConfig, stage: int) -> PretrainConfig:
    """The same under a ZeRO stage, in a folder of its own."""
    file = config.output.with_name(f"zero{stage}.json")
    file.write_text(json.dumps(Run(zero_stage=stage).deepspeed_file.values))
    return replace(config, deepspeed=file)


def pretrain_with_a_bad_batch(config: PretrainConfig, what: str) -> None:
    """Train; the loss, or a gradient, of step 3 is not finite on the last process."""
    step = PretrainRun._step

    def poisoned_step(run: PretrainRun) -> Flags:
        if run.iteration + 1 == BAD_STEP and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            chunk: Any = run.model.chunks[0]
            if what == "loss":
                hook = chunk.register_forward_hook(lambda module, given, losses: losses * torch.nan)
            else:
                hook = chunk.decoder.final_layernorm.weight.register_hook(lambda gradient: gradient * torch.inf)
            flags = step(run)
            hook.remove()
            return flags
        return step(run)

    PretrainRun._step = poisoned_step  # type: ignore[method-assign]
    pretrain(config)


def state_after(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    """Weights and moments of every parameter in a checkpoint."""
    reader = CheckpointReader(run / "checkpoints" / f"iter_{iteration:07d}")
    return {f"{key} {name}": reader.read_parameter(name, key) for name in reader.parameters for key in STATE_KEYS}


@pytest.mark.parametrize("stage", others_slow(range(4), quick=[1, 3]))
@pytest.mark.parametrize(("what", "reason"), [("loss", "the loss is nan"), ("gradient", "the gradient is not finite")])
def test_what_is_not_finite_changes_no_weight(config: PretrainConfig, what: str, reason: str, stage: int) -> None:
    config = replace(with_stage(config, stage), output=config.output.with_name(f"{what}-{stage}"))
    run_distributed(pretrain_with_a_bad_batch, 2, config, what)
    before, after = state_after(config.output, BAD_STEP - 1), state_after(config.output, BAD_STEP)
    assert all(torch.equal(before[name], after[name]) for name in before)
    last = state_after(config.output, 4)
    assert all(value.isfinite().all() for value in last.values())
    assert not all(torch.equal(after[name], last[name]) for name in last)
    records = read_json_lines(config.output / "metrics.jsonl")
    [bad] = [record for record in records if record["kind"] == "bad_batch"]
    assert (bad["iteration"], bad["reason"]) == (BAD_STEP, reason)
    assert len(bad["documents"]) == 4
    assert all("document" in documents for documents in bad["documents"])
    assert sum(record["skipped_steps"] for record in records if record["kind"] == "train") == 1


def test_stopped_run_saves_and_resumes_with_on_bad_batch_skip(config: PretrainConfig) -> None:
    careful = FaultsConfig(spike_factor=1.0001, spike_window=1)
    config = replace(
        with_stage(config, 1),
        output=config.output.with_name("spike"),
        training=replace(config.training, train_iters=12),
        checkpoint=CheckpointConfig(save_interval=100),
        faults=careful,
    )
    with pytest.raises(AssertionError, match=r"times the median of the last 1.* its batch changed no weight"):
        run_distributed(pretrain, 1, config)
    [bad] = [record for record in read_json_lines(config.output / "metrics.jsonl") if record["kind"] == "bad_batch"]
    assert (config.output / "checkpoints" / f"iter_{bad['iteration'] - 1:07d}").is_dir()
    run_distributed(pretrain, 1, replace(config, faults=replace(careful, on_bad_batch="skip")))
    records = read_json_lines(config.output / "metrics.jsonl")
    assert [record["iteration"] for record in records if record["kind"] == "bad_batch"].count(bad["iteration"]) == 2
    assert records[-1]["iteration"] == 12


def test_too_many_bad_batches_in_a_row_stop_a_run_that_skips(config: PretrainConfig) -> None:
    config = replace(
        with_stage(config, 1),
        output=config.output.with_name("many"),
        faults=FaultsConfig(spike_factor=1.0001, spike_window=1, on_bad_batch="skip", max_bad_batches=1),
    )
    config = replace(config, training=replace(config.training, train_iters=12))
    with pytest.raises(AssertionError, match=rf"{UserError.__name__}: iteration \d+: .*--max-bad-batches 1"):
        run_distributed(pretrain, 1, config)
