"""What a checkpoint says of the run beside the weights, and whether a run may go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.data.sequences import SequenceDataset
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.versions import versions

FIXED_TRAINING_SETTINGS = ("seed", "global_batch_size")
"""Training settings that decide which data comes next; a resumed run must keep them."""


def describe_dataset(dataset: SequenceDataset) -> dict[str, Any]:
    """What a result should say of the data it was trained on."""
    manifest = dataset.manifest
    return {
        "folder": dataset.folder.name,
        "strategy": manifest.strategy,
        "pause_rate": manifest.pause_rate,
        "seq_length": manifest.seq_length,
        "seed": manifest.seed,
        "trimmed": manifest.trimmed,
        "sequences": len(dataset),
    }


def run_state(
    config: PretrainConfig,
    *,
    tokenizer: PauseTokenizer,
    dataset: SequenceDataset,
    layout: str,
    iteration: int,
    optimizer_step: int,
    real_tokens: int,
    pause_tokens: int,
) -> dict[str, Any]:
    """The ``state`` of a checkpoint's manifest: position in the data, configuration, provenance."""
    return {
        "iteration": iteration,
        "consumed_samples": iteration * config.training.global_batch_size,
        "optimizer_step": optimizer_step,
        "real_tokens": real_tokens,
        "pause_tokens": pause_tokens,
        "layout": layout,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": tokenizer.sha256,
        "dataset": describe_dataset(dataset),
        "config": to_plain(config),
        "versions": versions(),
    }


def refuse_another_run(
    state: dict[str, Any], config: PretrainConfig, tokenizer: PauseTokenizer, dataset: SequenceDataset, folder: Path
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
    differences += [
        (f"--{name.replace('_', '-')}", saved["model"][name], given["model"][name]) for name in given["model"]
    ]
    differences.append(("--tokenizer (sha256)", state["tokenizer_sha256"], tokenizer.sha256))
    found = describe_dataset(dataset)
    differences += [(f"--data ({name})", state["dataset"][name], found[name]) for name in found if name != "folder"]
    for flag, before, now in differences:
        if before != now:
            raise UserError(
                f"{folder} was trained with {flag} {before}, now {now} is given; keep it, or name another --output"
            )
