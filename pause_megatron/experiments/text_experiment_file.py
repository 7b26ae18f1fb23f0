"""Reads the definition of an experiment on text, with the values that the command line replaces."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from pause_megatron.config.checks import require_at_least, suggestion
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.reproductions import ReproduceConfig
from pause_megatron.config.serialize import build, flat_fields, flat_values
from pause_megatron.config.text_experiments import TextExperiment
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_settings import convert, converted_settings, field_names, require_known
from pause_megatron.experiments.reproduction_file import read_values
from pause_megatron.experiments.study_checks import check_text
from pause_megatron.experiments.study_file import absolute_text

DEEPSPEED = Path("zero1_fp32")
_SET_BY_ARM = ("initial_checkpoint", "validation_data", "max_position_embeddings", "pause_positions", "seq_length")
"""Settings of ``pretrain`` that follow from the arms and from ``real_tokens``."""


def read_text_experiment(config: ReproduceConfig) -> TextExperiment:
    """Return the experiment on text that ``config`` names; its flags replace what the definition has.

    Raises :class:`UserError` that names the key or the flag if something is missing, unknown or of the wrong type.
    """
    source = f"--experiment {config.experiment}"
    for flag, texts in (("--text", config.text), ("--validation-text", config.validation_text)):
        if not texts:
            raise UserError(f"{flag}: is missing, and {config.experiment} reads C4; give its files (.json.gz)")
        check_text(texts, flag)
    if config.bits is not None:
        raise UserError(f"--bits {config.bits}: {config.experiment} has no bits; remove it, or use --set")
    values = read_values(config, source)
    require_known(values, field_names(TextExperiment), source)
    try:
        experiment = msgspec.convert(values, TextExperiment, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {error}") from error
    return _checked(experiment, source)


def texts_of(config: ReproduceConfig) -> dict[str, list[str]]:
    """Return the texts of ``config`` by the flag that gives them, with absolute paths."""
    return {
        "text": [absolute_text(text) for text in config.text],
        "validation_text": [absolute_text(text) for text in config.validation_text],
    }


def _checked(experiment: TextExperiment, source: str) -> TextExperiment:
    """Return ``experiment`` with settings in their types."""
    _check_arms(experiment, source)
    kinds = {name: found.type for name, found in flat_fields(ModelConfig).items() if name not in _SET_BY_ARM}
    require_known(experiment.model, kinds, f"{source}: model")
    checked = dataclasses.replace(
        experiment,
        tokenizer=converted_settings(experiment.tokenizer, TokenizerConfig, f"{source}: tokenizer"),
        model={name: convert(value, kinds[name], f"{source}: model: {name}")
               for name, value in experiment.model.items()},
        train=_training(experiment.train, f"{source}: train"),
        plain=_training(experiment.plain, f"{source}: plain"),
        continued=_training(experiment.continued, f"{source}: continued"),
    )  # fmt: skip
    for key in ("plain", "continued"):
        if "train_iters" not in getattr(checked, key):
            raise UserError(f"{source}: {key}: 'train_iters' is missing; add it")
        settings = {**checked.model, **checked.train, **getattr(checked, key)}
        settings = {"deepspeed": DEEPSPEED, "max_position_embeddings": checked.positions, **settings}
        try:
            config = build(PretrainConfig, {"data": ("data",), "output": Path(), "tokenizer": Path(), **settings})
        except UserError as error:
            raise UserError(f"{source}: {key}: {error}") from error
        require_at_least(1, train_iters=flat_values(config)["train_iters"])
    if "from_tokenizer" in checked.tokenizer or "distinct_pauses" in checked.tokenizer:
        raise UserError(f"{source}: tokenizer: is trained on the text with one <pause>; give only settings of training")
    return checked


def _training(values: dict[str, Any], where: str) -> dict[str, Any]:
    if taken := [key for key in values if key in _SET_BY_ARM]:
        raise UserError(f"{where}: {taken[0]}: follows from 'real_tokens' and from the arms; remove it")
    return converted_settings(values, PretrainConfig, where)


def _check_arms(experiment: TextExperiment, source: str) -> None:
    if not experiment.seeds:
        raise UserError(f"{source}: 'seeds' is empty; give at least one")
    if not experiment.arms:
        raise UserError(f"{source}: 'arms' is empty; give at least one")
    if experiment.real_tokens < 2:
        raise UserError(f"{source}: real_tokens: {experiment.real_tokens} must be at least 2; raise it")
    names, keys = [arm.name for arm in experiment.arms], [arm.key for arm in experiment.arms]
    for arm in experiment.arms:
        if arm.num_pauses < 0 or (arm.distinct and arm.num_pauses < 2):
            needed = "at least 2 with 'distinct'" if arm.distinct else "at least 0"
            raise UserError(f"{source}: arms: {arm.name}: num_pauses {arm.num_pauses} must be {needed}; correct it")
        if names.count(arm.name) > 1 or keys.count(arm.key) > 1:
            raise UserError(f"{source}: arms: {arm.name}: has the name or the pauses of another arm; remove one")
    for name in (name for pair in experiment.differences for name in pair):
        if name not in names:
            raise UserError(f"{source}: differences: unknown arm '{name}'; {suggestion(name, names)}")
