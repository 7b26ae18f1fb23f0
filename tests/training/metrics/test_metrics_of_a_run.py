"""Metrics of a run in metrics.jsonl and TensorBoard, also of a run that was killed and resumed."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import CheckpointConfig, LoggingConfig, OptimizerConfig, TrainingConfig
from pause_megatron.log import read_json_lines
from pause_megatron.records.files import read_record
from pause_megatron.records.pretraining import RunRecord
from pause_megatron.training.metrics.run_metrics import Metrics
from pause_megatron.training.pretrain import pretrain
from tests.chain import SEQ_LENGTH, VOCAB_SIZE, write_dataset, write_text_and_tokenizer
from tests.distributed import run_distributed

BATCH = 8
PEAK_TFLOPS = 0.5
DOCUMENTATION = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
Records = list[dict[str, Any]]


class KilledError(Exception):
    """Simulated crash between two checkpoints."""


def killed_in_step_5(config: PretrainConfig) -> None:
    count = Metrics.count

    def count_or_die(metrics: Metrics, *step: Any) -> None:
        count(metrics, *step)
        if metrics.real_tokens + metrics.pause_tokens == 5 * BATCH * SEQ_LENGTH:
            raise KilledError

    Metrics.count = count_or_die  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        pretrain(config)


@pytest.fixture(scope="module")
def every_step(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """An undisturbed run of six steps on two pipeline stages, logged at each."""
    folder = tmp_path_factory.mktemp("watched")
    write_text_and_tokenizer(folder)
    config = PretrainConfig(
        data=(str(write_dataset(folder, "pause")),),
        validation_data=(
            str(write_dataset(folder, "held-out-standard", "validation", pauses="none")),
            str(write_dataset(folder, "held-out-pause", "validation")),
        ),
        tokenizer=folder / "tokenizer",
        deepspeed=Path(__file__).parents[3] / "ds_configs" / "zero1_fp32.json",
        output=folder / "every-step",
        model=ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=SEQ_LENGTH),
        parallel=ParallelConfig(pipeline_model_parallel_size=2),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(
            train_iters=6,
            global_batch_size=BATCH,
            micro_batch_size=4,
            validation_interval=3,
            validation_sequences=2 * BATCH - 4,
        ),
        checkpoint=CheckpointConfig(save_interval=3),
        logging=LoggingConfig(log_interval=1, tensorboard=True, peak_tflops=PEAK_TFLOPS),
    )
    run_distributed(pretrain, 2, config)
    return config


@pytest.fixture(scope="module")
def killed(every_step: PretrainConfig) -> PretrainConfig:
    """The same run logged at every second step, killed in the fifth and continued from the checkpoint of the third."""
    config = replace(
        every_step,
        output=every_step.output.with_name("killed"),
        logging=LoggingConfig(log_interval=2, tensorboard=True),
    )
    run_distributed(killed_in_step_5, 2, config)
    run_distributed(pretrain, 2, config)
    return config


def records(config: PretrainConfig, kind: str) -> Records:
    return [record for record in read_json_lines(config.output / "metrics.jsonl") if record["kind"] == kind]


def chart(config: PretrainConfig, name: str) -> dict[int, float]:
    """Step to value as TensorBoard shows them."""
    events = EventAccumulator(str(config.output / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars(name)]
    assert len(set(steps)) == len(steps), "a step is shown twice"
    return {event.step: event.value for event in events.Scalars(name)}


def test_every_step_is_recorded_once(every_step: PretrainConfig) -> None:
    train = records(every_step, "train")
    assert [record["iteration"] for record in train] == [1, 2, 3, 4, 5, 6]
    for record in train:
        assert record["real_tokens"] + record["pause_tokens"] == record["consumed_samples"] * SEQ_LENGTH
        assert sum(record["targets_by_pause_run"].values()) <= BATCH * SEQ_LENGTH
        assert record["last_loss"] == record["loss"]
        assert record["tokens_per_second"] == pytest.approx(BATCH * SEQ_LENGTH / record["seconds_per_step"])
        assert record["memory_bytes"] > 50_000_000
    assert [record["seconds_left"] > 0 for record in train] == [True] * 5 + [False]


def test_tflops_follow_from_the_model_size(every_step: PretrainConfig, killed: PretrainConfig) -> None:
    layers, hidden, vocab, processes = 2, 32, VOCAB_SIZE, 2
    matrices = layers * 12 * hidden**2 + hidden * vocab
    flops_per_token = 6 * matrices + 12 * layers * hidden * SEQ_LENGTH
    for record in records(every_step, "train"):
        tflops = record["tokens_per_second"] * flops_per_token / processes / 1e12
        assert record["tflops_per_device"] == pytest.approx(tflops)
        assert record["mfu"] == pytest.approx(tflops / PEAK_TFLOPS)
    run = read_record(every_step.output / RunRecord.FILE, RunRecord)
    assert run.flops_per_sequence == flops_per_token * SEQ_LENGTH
    if not torch.cuda.is_available():  # a CPU has no known peak
        assert not any("mfu" in record for record in records(killed, "train"))


def test_validation_with_and_without_pauses_is_recorded(every_step: PretrainConfig) -> None:
    found = records(every_step, "validation")
    assert Counter((record["dataset"], record["pauses"]) for record in found) == {
        ("held-out-standard", "none"): 2,
        ("held-out-pause", "sequence"): 2,
    }
    for record in found:
        assert sum(record["block_targets"]) == record["real_tokens"]
        assert len(record["block_losses"]) == len(record["block_targets"]) == 2
        mean = sum(map(math.prod, zip(record["block_losses"], record["block_targets"], strict=True)))
        assert mean / record["real_tokens"] == pytest.approx(record["loss"])
    for record in found:
        assert ("loss_after_pause" in record) == (record["pauses"] != "none")
        runs = record.get("targets_by_pause_run", {"0": record["real_tokens"]})
        losses = record.get("loss_by_pause_run", {"0": record["loss"]})
        mean = sum(losses[run] * runs[run] for run in runs) / record["real_tokens"]
        assert mean == pytest.approx(record["loss"])


def test_tensorboard_shows_what_metrics_jsonl_says(every_step: PretrainConfig) -> None:
    train = records(every_step, "train")
    for name in ("loss", "loss_after_pause", "grad_norm", "tokens_per_second"):
        expected = {record["iteration"]: record[name] for record in train}
        assert chart(every_step, f"train/{name}") == pytest.approx(expected)
    movement = {record["iteration"]: record["pause_embedding"]["movement"] for record in train}
    assert chart(every_step, "train/pause_embedding/movement") == pytest.approx(movement)
    assert set(chart(every_step, "validation/held-out-pause/loss_after_pause")) == {3, 6}


def test_restart_is_recorded_and_steps_are_repeated(killed: PretrainConfig) -> None:
    lines = read_json_lines(killed.output / "metrics.jsonl")
    story = [(record["kind"], record["iteration"]) for record in lines if record["kind"] != "validation"]
    assert story == [("train", 2), ("train", 4), ("resumed", 3), ("train", 4), ("train", 6)]
    [resumed] = records(killed, "resumed")
    assert resumed["checkpoint"].endswith("iter_0000003")
    assert (resumed["layout"], resumed["restarts"]) == ("TP 1 · PP 2 · DP 1", 1)
    assert set(chart(killed, "train/loss")) == {2, 4, 6}


def test_loss_is_the_mean_over_all_targets_since_the_last_line(
    every_step: PretrainConfig, killed: PretrainConfig
) -> None:
    each = {record["iteration"]: record for record in records(every_step, "train")}
    for record in records(killed, "train"):
        steps = [each[record["iteration"] - back] for back in range(record["steps"])]
        targets = [sum(step["targets_by_pause_run"].values()) for step in steps]
        mean = sum(step["loss"] * count for step, count in zip(steps, targets, strict=True)) / sum(targets)
        assert record["loss"] == pytest.approx(mean)
        assert record["last_loss"] == pytest.approx(steps[0]["loss"])
    assert [record["steps"] for record in records(killed, "train")] == [2, 2, 1, 2]


def test_pause_embedding_remembers_its_initial_value_after_a_restart(
    every_step: PretrainConfig, killed: PretrainConfig
) -> None:
    undisturbed, after_restart = (records(config, "train")[-1]["pause_embedding"] for config in (every_step, killed))
    assert undisturbed["movement"] > 2 * undisturbed["movement_since_last"] > 0
    for name in undisturbed.keys() - {"movement_since_last"}:
        assert after_restart[name] == pytest.approx(undisturbed[name], rel=1e-6), name


def keys(record: dict[str, Any]) -> set[str]:
    """All names in ``record`` but those of runs of pauses."""
    inner = [keys(value) for name, value in record.items() if isinstance(value, dict) and "pause_run" not in name]
    return record.keys() | set().union(*inner)


def test_every_key_is_documented(killed: PretrainConfig) -> None:
    explained = set(re.findall(r"[`\"](\w+)[`\"]", DOCUMENTATION))
    assert set().union(*map(keys, read_json_lines(killed.output / "metrics.jsonl"))) - explained == set()


def test_documented_program_reads_each_iteration_once(every_step: PretrainConfig, killed: PretrainConfig) -> None:
    [program] = re.findall(r"```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program.replace("runs/pausept-1b", str(killed.output)), names)
    assert [(iteration, record["steps"]) for iteration, record in names["train"].items()] == [(2, 2), (4, 1), (6, 2)]
