"""Early stopping is off by default, evaluates held-out examples, and keeps the best weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import load_task
from pause_megatron.downstream.training_examples import PauseCollator, PausedExamples, hold_out
from pause_megatron.errors import UserError
from pause_megatron.log import read_json_lines


@pytest.fixture
def config(model_path, parity_data, tmp_path) -> FinetuneConfig:
    """Settings that learn so fast that the held-out loss soon rises."""
    return FinetuneConfig(
        model=model_path("gpt2"),
        task="parity",
        data=parity_data,
        output=tmp_path / "finetuned",
        pausing=FinetunePausing(num_pauses_ft=2),
        learning_rate=3e-2,
        schedule="constant",
        warmup_steps=0,
        steps=60,
        batch_size=8,
        log_interval=2,
        save_interval=2,
        early_stopping_patience=2,
        held_out_examples=32,
    )


def examples_of(folder, config: FinetuneConfig) -> PausedExamples:
    pairs = load_task(config.task, config.data).training_pairs()
    return PausedExamples(pairs, folder, Pausing(num_pauses=config.pausing.num_pauses_ft), seed=config.seed)


def held_out_loss(config: FinetuneConfig) -> float:
    """Return the loss of the finetuned model, in batches like those of the Trainer."""
    folder = load_model_folder(config.output)
    _, held_out = hold_out(examples_of(folder, config), config)
    collate = PauseCollator(folder.eod_id, bidirectional=True, dtype=torch.float32)
    batches = [collate([held_out[index] for index in range(start, start + 8)]) for start in range(0, 32, 8)]
    with torch.no_grad():
        losses = [float(folder.model(**batch).loss) for batch in batches]
    return sum(losses) / len(losses)


def looks_of(config: FinetuneConfig) -> dict[int, float]:
    """Return step to logged held-out loss."""
    records = read_json_lines(config.output / "metrics.jsonl")
    return {record["step"]: record["loss"] for record in records if record["kind"] == "validation"}


def test_training_stops_and_the_best_weights_are_kept(config):
    finetune(config)
    looks = looks_of(config)
    best = min(looks, key=looks.get)
    assert list(looks) == list(range(2, best + 2 * 2 + 1, 2)), "two looks after the best one"
    assert max(looks) < config.steps
    marker = json.loads((config.output / "finetune.json").read_text())
    assert marker["kept_step"] == best
    assert held_out_loss(config) == pytest.approx(looks[best], abs=1e-5)


def test_held_out_examples_depend_on_the_seed_and_are_not_trained_on(config):
    examples = examples_of(load_model_folder(config.model), config)
    learned, held_out = hold_out(examples, config)
    assert sorted([*learned.indices, *held_out.indices]) == list(range(len(examples)))
    assert len(held_out) == 32
    assert hold_out(examples, config)[1].indices == held_out.indices
    assert hold_out(examples, replace(config, seed=1))[1].indices != held_out.indices


def test_resumed_run_stops_at_the_same_step(config, tmp_path, monkeypatch):
    finetune(replace(config, output=tmp_path / "whole"))
    whole = json.loads((tmp_path / "whole" / "finetune.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr("pause_megatron.downstream.work_folder.MetricsWriter.on_log", interrupt_after(6))
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    finetune(config)
    again = json.loads((config.output / "finetune.json").read_text())
    assert again["kept_step"] == whole["kept_step"]
    assert again["final_loss"] == whole["final_loss"]


def test_state_whose_best_weights_are_damaged_is_passed_over(config, tmp_path, monkeypatch, capsys):
    whole = replace(config, output=tmp_path / "whole")
    finetune(whole)
    best = json.loads((whole.output / "finetune.json").read_text())["kept_step"]
    with monkeypatch.context() as patch:
        patch.setattr("pause_megatron.downstream.work_folder.MetricsWriter.on_log", interrupt_after(best + 2))
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    weights = config.work_folder / f"checkpoint-{best}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    finetune(config)
    said = capsys.readouterr().err
    for step in (best + 2, best):
        assert f"{weights}: damaged" in said
        assert f"renamed checkpoint-{step} to checkpoint-{step}.damaged" in said
    assert looks_of(config) == looks_of(whole)
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (config.output / name).read_bytes() == (whole.output / name).read_bytes()


def test_held_out_loss_that_is_not_finite_ends_the_run(config):
    with pytest.raises(UserError, match=r"--learning-rate: the (held-out )?loss is not finite at step 2; lower it"):
        finetune(replace(config, learning_rate=1e30))
    assert not config.output.exists()


def test_run_killed_after_it_stopped_early_trains_no_further(config, tmp_path, monkeypatch):
    finetune(replace(config, output=tmp_path / "whole"))

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pause_megatron.downstream.finetune.write_finetuned_folder", die)
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    finetune(config)
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", config.output))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert looks_of(config) == looks_of(replace(config, output=tmp_path / "whole"))


def interrupt_after(step: int):
    from pause_megatron.downstream.work_folder import MetricsWriter

    written = MetricsWriter.on_log

    def on_log(self, args, state, control, logs, **kwargs):
        if state.global_step > step:
            raise KeyboardInterrupt
        written(self, args, state, control, logs, **kwargs)

    return on_log


def test_by_default_nothing_is_held_out(config):
    finetune(replace(config, early_stopping_patience=0, steps=6))
    kinds = {record["kind"] for record in read_json_lines(config.output / "metrics.jsonl")}
    assert kinds == {"train"}
    assert json.loads((config.output / "finetune.json").read_text())["kept_step"] == 6


def test_settings_that_exclude_early_stopping_are_refused(config):
    with pytest.raises(UserError, match="--held-out-examples 5000: parity has only 200 training examples"):
        finetune(replace(config, held_out_examples=5000))
    with pytest.raises(UserError, match="no evaluation before the last of 60 steps; lower --save-interval 60"):
        replace(config, save_interval=60)
    with pytest.raises(UserError, match="--early-stopping-patience 2: cannot change sharded weights; remove --fsdp"):
        replace(config, fsdp="full_shard")


def test_lora_keeps_the_best_weights_too(config):
    config = replace(config, lora_rank=2, learning_rate=0.3, early_stopping_patience=1)
    finetune(config)
    looks = looks_of(config)
    best = min(looks, key=looks.get)
    assert max(looks) == best + 2
    assert held_out_loss(config) == pytest.approx(looks[best], abs=1e-4)
