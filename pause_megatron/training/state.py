"""What a checkpoint says of the run beside the weights, and whether a run may go on from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.sample_order import TrainingData
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.versions import versions

FIXED_TRAINING_SETTINGS = ("seed", "global_batch_size", "rampup_batch_size")
"""Training settings that decide which data comes next; a resumed run must keep them."""


def strategy(sources: Sequence[DataFolder]) -> str:
    """The pause strategy of a blend: that of its folders, or all of them."""
    return "+".join(sorted({source.manifest.strategy for source in sources}))


def describe_data(data: TrainingData) -> dict[str, Any]:
    """What a result should say of the data it was trained on. ``pause_rate`` is pauses per real token, before trimming;
    for a blend the mean by its shares."""
    shares = [source.weight or source.num_samples for source in data.sources]
    rates = [source.manifest.pause_rate or source.manifest.pauses_per_token for source in data.sources]
    same_rate = len(set(rates)) == 1
    return {
        "strategy": strategy(data.sources),
        "pause_rate": rates[0] if same_rate else statistics.fmean(rates, weights=shares),
        "seq_length": data.seq_length,
        "samples": len(data),
        "folders": [_describe_folder(source) for source in data.sources],
    }


def _describe_folder(source: DataFolder) -> dict[str, Any]:
    manifest = source.manifest
    return {
        "folder": source.name,
        "weight": source.weight,
        "strategy": manifest.strategy,
        "seed": manifest.seed,
        "samples": source.num_samples,
        "fingerprint": source.fingerprint,
    }


def run_state(
    config: PretrainConfig,
    *,
    tokenizer: PauseTokenizer,
    data: TrainingData,
    layout: str,
    iteration: int,
    consumed_samples: int,
    validated_iteration: int,
    bad_batches: dict[str, Any],
    real_tokens: int,
    pause_tokens: int,
) -> dict[str, Any]:
    """The ``state`` of a checkpoint's manifest: position in the data, configuration, provenance."""
    return {
        "iteration": iteration,
        "consumed_samples": consumed_samples,
        "validated_iteration": validated_iteration,
        "bad_batches": bad_batches,
        "real_tokens": real_tokens,
        "pause_tokens": pause_tokens,
        "layout": layout,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": tokenizer.sha256,
        "dataset": describe_data(data),
        "config": to_plain(config),
        "versions": versions(),
    }


def refuse_another_run(
    state: dict[str, Any], config: PretrainConfig, tokenizer: PauseTokenizer, data: TrainingData, folder: Path
) -> None:
    """Raise :class:`UserError` naming the difference when ``state`` is not of the run ``config`` describes.

    The layout, the ZeRO stage, the learning rate and the number of iterations may change; the model, the data and what
    decides their order may not.
    """
    saved, given = state["config"], to_plain(config)
    differences = [
        (f"--{name.replace('_', '-')}", saved["training"][name], given["training"][name])
        for name in FIXED_TRAINING_SETTINGS
    ]
    differences += model_differences(saved["model"], config.model)
    differences.append(("--tokenizer (sha256)", state["tokenizer_sha256"], tokenizer.sha256))
    differences += _data_differences(state["dataset"], describe_data(data))
    for flag, before, now in differences:
        if before != now:
            raise UserError(
                f"{folder} was trained with {flag} {before}, now {now} is given; keep it, or name another --output"
            )


def model_differences(saved: dict[str, Any], model: ModelConfig) -> list[tuple[str, Any, Any]]:
    """Flag, value before and value now of everything that a ``saved`` model and ``model`` may differ in."""
    before, now = {**to_plain(ModelConfig()), **saved}, to_plain(model)
    return [(f"--{name.replace('_', '-')}", before[name], now[name]) for name in now]


def _data_differences(saved: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Flag, value before and value now of what decides the data; what the folders are called does not."""
    before, now = saved.get("folders", []), found["folders"]
    differences = [("--seq-length", saved["seq_length"], found["seq_length"])]
    differences.append(("--data (number of folders)", len(before), len(now)))
    for old, new in zip(before, now, strict=False):
        differences += [(f"--data {new['folder']} ({name})", old[name], new[name]) for name in new if name != "folder"]
    return differences
