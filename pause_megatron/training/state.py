"""Training state of a checkpoint other than the weights, and the check that a run may resume from it."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flat_fields, to_plain
from pause_megatron.config.training import TrainingConfig
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.data.sample_order import TrainingData
from pause_megatron.errors import UserError
from pause_megatron.records.checkpoint_state import CheckpointDataRecord, CheckpointState
from pause_megatron.records.pretraining import DataFolderRecord, KindOfRates, TrainingDataRecord
from pause_megatron.tokenizer import PauseTokenizer

FIXED_TRAINING_SETTINGS = ("seed", "global_batch_size", "rampup_batch_size", "pause_inputs", "filler")
"""Training settings that decide the order of the data or the inputs; a resumed run must keep them."""

Difference = tuple[str, Any, Any]
"""Flag, value in the checkpoint, value now; the two may be equal."""


def blend_strategy(sources: Sequence[DataFolder]) -> str:
    """The pause strategies of a blend's folders, joined by "+" if they differ, for example "none+sequence"."""
    return "+".join(sorted({source.manifest.strategy for source in sources}))


def describe_data(data: TrainingData) -> TrainingDataRecord:
    """The record of the training data; its ``pause_rate`` is the mean weighted by the folders' shares."""
    shares = [source.weight or source.num_samples for source in data.sources]
    manifests = [source.manifest for source in data.sources]
    rates = [manifest.pause_rate or manifest.pauses_per_token / manifest.interval for manifest in manifests]
    same_rate = len(set(rates)) == 1
    groups = {(manifest.pauses_per_token, manifest.interval) for manifest in manifests if manifest.strategy == "every"}
    same_groups = len(groups) == 1 and blend_strategy(data.sources) == "every"
    pauses_per_token, pause_interval = groups.pop() if same_groups else (None, None)
    kinds = {one.kind_of_rates for one in manifests if one.strategy in ("sequence", "document")}
    kind: KindOfRates | None = None
    if "drawn" in kinds:
        kind = "drawn+fixed" if "fixed" in kinds else "drawn"
    return TrainingDataRecord(
        strategy=blend_strategy(data.sources),
        pause_rate=rates[0] if same_rate else statistics.fmean(rates, weights=shares),
        seq_length=data.seq_length,
        samples=len(data),
        folders=tuple(
            DataFolderRecord(
                folder=source.name,
                weight=source.weight,
                strategy=source.manifest.strategy,
                seed=source.manifest.seed,
                samples=source.num_samples,
                fingerprint=source.fingerprint,
            )
            for source in data.sources
        ),
        pauses_per_token=pauses_per_token,
        pause_interval=pause_interval,
        rates=kind,
    )


def checkpoint_data(data: TrainingData) -> CheckpointDataRecord:
    """The record of the training data in a checkpoint."""
    return CheckpointDataRecord(**vars(describe_data(data)))


def refuse_another_run(
    state: CheckpointState, config: PretrainConfig, tokenizer: PauseTokenizer, data: TrainingData, folder: Path
) -> None:
    """Raise :class:`UserError` with the first difference when ``state`` is not of the run that ``config`` describes.

    The layout, the ZeRO stage, the learning rate and the number of iterations may change. The model, the data and the
    settings that decide the order of the data must not.
    """
    defaults = {name: to_plain(field.default) for name, field in flat_fields(TrainingConfig).items()}
    saved, given = {**defaults, **state.config["training"]}, to_plain(config.training)
    differences = [(f"--{name.replace('_', '-')}", saved[name], given[name]) for name in FIXED_TRAINING_SETTINGS]
    differences += model_differences(state, config.model, tokenizer)
    differences += _data_differences(state.dataset, checkpoint_data(data))
    for flag, before, now in differences:
        if before != now:
            raise UserError(
                f"{folder}: trained with {flag} {before}, but {now} is given; give the old value or another --output"
            )


def model_differences(state: CheckpointState, model: ModelConfig, tokenizer: PauseTokenizer) -> list[Difference]:
    """Compare every setting of the model of ``state`` with ``model``, and the tokenizers.

    A size of 0, the default, equals the size that it stands for, which an import from Hugging Face names.
    """
    saved = ModelConfig(**state.config["model"])
    before, now = (
        {
            **to_plain(each),
            "num_query_groups": each.query_groups,
            "kv_channels": each.head_dim,
            "ffn_hidden_size": each.ffn_size,
        }
        for each in (saved, model)
    )
    differences = [(f"--{name.replace('_', '-')}", before[name], now[name]) for name in now]
    return [*differences, ("--tokenizer (sha256)", state.tokenizer_sha256, tokenizer.sha256)]


def _data_differences(saved: CheckpointDataRecord, found: CheckpointDataRecord) -> list[Difference]:
    """Compare the data; folders may have been renamed."""
    before, now = saved.folders or (), found.folders or ()
    differences: list[Difference] = [("--seq-length", saved.seq_length, found.seq_length)]
    differences.append(("--data (number of folders)", len(before), len(now)))
    for old, new in zip(before, now, strict=False):
        flag = f"--data {new.folder}"
        differences += [
            (f"{flag} ({name})", getattr(old, name), getattr(new, name)) for name in vars(new) if name != "folder"
        ]
    return differences
