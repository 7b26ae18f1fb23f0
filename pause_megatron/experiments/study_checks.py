"""Checks of a grid's inputs before its first job: that they exist, and that its models can be compared."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.conversion import baking_problem
from pause_megatron.config.experiments import Grid
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.study import Equality, Pretraining
from pause_megatron.corpus.hub_datasets import HUB_PREFIX
from pause_megatron.downstream.hub_models import find_model
from pause_megatron.errors import UserError
from pause_megatron.experiments.job_outputs import manifest_of
from pause_megatron.experiments.study_budget import TOLERANCE, seq_length_of, tokens_of
from pause_megatron.experiments.study_jobs import DataJobs, study_jobs
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, read_dataset_manifest
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_record
from pause_megatron.tokenizer import PauseTokenizer


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """What must be equal of two models; None where it is not known yet."""

    place: str
    """Key in the grid file."""
    tokenizer: str | None
    """SHA-256 of the tokenizer."""
    seq_length: int | None
    size: int | None
    """Parameters without embeddings."""
    tokens: int | None
    real_tokens: int | None


def check_models(grid: Grid, output: Path, source: str) -> None:
    """Raise :class:`UserError` if a folder is missing or if the models of ``grid`` cannot be compared."""
    compared = list(_given_models(grid))
    if grid.pretrain:
        compared += _check_study(grid.pretrain, output, f"{source}: pretrain", grid.equal)
    if grid.equal == "nothing":
        return
    for index, one in enumerate(compared):
        for other in compared[:index]:
            _refuse_difference(one, other, source, grid.equal)


def _given_models(grid: Grid) -> Iterator[_Compared]:
    """Yield the exported models of ``grid`` that were pretrained by this project."""
    for name, model in grid.models.items():
        folder = find_model(model)
        if (folder / ExportRecord.FILE).is_file():
            record = read_record(folder / ExportRecord.FILE, ExportRecord)
            pretraining = record.pretraining
            yield _Compared(
                place=f"models: {name}",
                tokenizer=record.tokenizer.sha256,
                seq_length=pretraining.seq_length,
                size=pretraining.non_embedding_parameters,
                tokens=pretraining.real_tokens + pretraining.pause_tokens,
                real_tokens=pretraining.real_tokens,
            )


def _refuse_difference(one: _Compared, other: _Compared, source: str, equal: Equality | None) -> None:
    pairs = {
        "another tokenizer": (one.tokenizer, other.tokenizer),
        "another seq_length": (one.seq_length, other.seq_length),
    }
    differing = next((what for what, (ours, theirs) in pairs.items() if ours and theirs and ours != theirs), None)
    if differing is None and one.size == other.size:
        numbers = {"tokens": (one.tokens, other.tokens), "real_tokens": (one.real_tokens, other.real_tokens)}
        asked = [equal] if equal else ["tokens", "real_tokens"]  # either makes a fair comparison
        unequal = [
            f"{ours:,} {kind.replace('_', ' ')} instead of {theirs:,}"
            for kind, (ours, theirs) in numbers.items()
            if kind in asked and ours and theirs and abs(ours / theirs - 1) > TOLERANCE
        ]
        differing = unequal[0] if len(unequal) == len(asked) else None
    if differing:
        raise UserError(
            f"{source}: {one.place}: was pretrained with {differing}, unlike {other.place}; compare models that differ"
            " only in pauses, or set 'equal: nothing'"
        )


def _check_study(study: Pretraining, output: Path, where: str, equal: Equality | None) -> Iterator[_Compared]:
    """Check the inputs of a study; yield what is known of its models before they are trained."""
    data = DataJobs(study, output)
    sha256 = None
    if data.tokenizer.exists():
        sha256 = PauseTokenizer.load(data.tokenizer).sha256
    elif study.tokenizer:
        raise UserError(f"{where}: tokenizer: {study.tokenizer} does not exist; correct the path")
    if not study.train["deepspeed"].is_file():
        raise UserError(f"{where}: train: deepspeed: {study.train['deepspeed']} does not exist; correct the path")
    made = [data.folder_of(model) for model in study.models.values() if model.insertion]
    for key, texts, folders in (
        ("text", study.text, made),
        ("validation_text", study.validation_text, data.validation_folders),
    ):
        if not all(manifest_of(folder) for folder in folders):
            check_text(texts, f"{where}: {key}")
    manifests = dict(_manifests(study, data, where))
    for place, manifest in manifests.items():
        if sha256 not in (None, manifest.tokenizer_sha256):
            raise UserError(
                f"{where}: {place}: its data has another tokenizer than {data.tokenizer}; use one tokenizer"
            )
    _check_same_text(manifests, where)
    for (name, size, _), config in study_jobs(study, output, where, equal=equal or "tokens").runs.items():
        _check_baking(study, name, config, where)
        tokens, real_tokens = tokens_of(study.models[name], config)
        yield _Compared(
            place=f"pretrain: models: {name} of size {size}",
            tokenizer=sha256,
            seq_length=seq_length_of(study.models[name], config),
            size=config.model.non_embedding_parameters,
            tokens=tokens,
            real_tokens=round(real_tokens),
        )


def _check_baking(study: Pretraining, name: str, config: PretrainConfig, where: str) -> None:
    """Raise :class:`UserError` if the export of a model would be refused after its training."""
    model, number = study.models[name], study.export.get("bake_pauses", 0)
    if model.insertion:
        strategy: str = model.insertion.pauses
    else:
        assert model.data is not None
        strategy = read_dataset_manifest(model.data).strategy
    problem = baking_problem(
        strategy,
        replaces_pause=config.training.pause_inputs == "repeat" or config.training.filler is not None,
        shares_positions=config.model.shares_positions,
    )
    if number and problem:
        raise UserError(f"{where}: export: bake_pauses: {number}: the model {name} {problem}; remove it")


def check_text(texts: tuple[str, ...], place: str) -> None:
    """Raise :class:`UserError` that starts with ``place`` for the first of ``texts`` that no file has."""
    for text in texts:
        found = text.startswith(HUB_PREFIX) or Path(text).exists() or glob.glob(text, recursive=True)  # noqa: PTH207
        if not found:
            raise UserError(f"{place}: {text}: no such file; correct the path")


def _manifests(study: Pretraining, data: DataJobs, where: str) -> Iterator[tuple[str, DatasetManifest]]:
    """Yield the manifests of the datasets that exist, by the model's key in the file."""
    for name, model in study.models.items():
        manifest = manifest_of(data.folder_of(model))
        if manifest is None and model.data:
            raise UserError(
                f"{where}: models: {name}: data: {model.data} is not a complete dataset; preprocess it first"
            )
        if manifest:
            yield f"models: {name}", manifest


def _check_same_text(manifests: dict[str, DatasetManifest], where: str) -> None:
    """Raise :class:`UserError` unless all datasets are of the same files and of sequences of the same length."""
    for place, manifest in manifests.items():
        first, reference = next(iter(manifests.items()))
        inputs, expected = (
            sorted((Path(shard.input).name, shard.input_bytes) for shard in one.shards) for one in (manifest, reference)
        )
        lengths = {one.seq_length for one in (manifest, reference)} - {0}
        if inputs != expected or manifest.text_key != reference.text_key:
            raise UserError(
                f"{where}: {place}: its data was made from other text than that of {first}; use the same text"
            )
        if len(lengths) > 1:
            raise UserError(
                f"{where}: {place}: its data has sequences of {manifest.seq_length} tokens, but that of {first} of"
                f" {reference.seq_length}; use one length"
            )
