"""Reads the definition of an experiment, with the values that the command line replaces."""

import dataclasses
from typing import Any

import msgspec

from pause_megatron.config.checks import suggestion
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.generated_tasks import TASK_PARAMETERS
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.reproductions import EXPERIMENTS, Experiment, ReproduceConfig
from pause_megatron.config.serialize import flat_fields, read_settings
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_file import set_value
from pause_megatron.experiments.grid_settings import convert, converted_settings, field_names, require_known

_SET_BY_TASK = ("vocab_size", "max_position_embeddings")
"""Settings of the model that follow from the tokenizer and the task."""


def read_experiment(config: ReproduceConfig) -> Experiment:
    """Return the experiment that ``config`` names; its flags replace what the definition has.

    Raises :class:`UserError` that names the key if something is unknown or of the wrong type.
    """
    source = f"--experiment {config.experiment}"
    for flag, texts in (("--text", config.text), ("--validation-text", config.validation_text)):
        if texts:
            raise UserError(f"{flag}: {config.experiment} reads no text, but a generated task; remove it")
    values = read_values(config, source)
    if config.bits is not None:
        if values["task"] != "parity":
            raise UserError(f"--bits {config.bits}: {config.experiment} has no bits; remove it, or use --set")
        values["parameters"] = {**values.get("parameters", {}), "bits": config.bits}
    require_known(values, field_names(Experiment), source)
    try:
        experiment = msgspec.convert(values, Experiment, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {error}") from error
    return _checked(experiment, source)


def is_on_text(name: str) -> bool:
    """Whether the experiment ``name`` trains on text instead of a generated task."""
    return read_settings(EXPERIMENTS / f"{name}.yaml", name).get("kind") == "text"


def read_values(config: ReproduceConfig, source: str) -> dict[str, Any]:
    """Return the definition that ``config`` names, with the values of ``--set`` and the seeds of ``--seeds``."""
    values = read_settings(EXPERIMENTS / f"{config.experiment}.yaml", source)
    for assignment in config.set:
        set_value(values, assignment)
    if config.seeds:
        values["seeds"] = list(dict.fromkeys(config.seeds))
    return values


def _checked(experiment: Experiment, source: str) -> Experiment:
    """Return ``experiment`` with settings in their types."""
    require_known(experiment.sizes, ("train", "validation", "test"), f"{source}: sizes")
    parameters = TASK_PARAMETERS[experiment.task]
    known = {field.name: field.type for field in dataclasses.fields(parameters) if field.name != "hints"}
    require_known(experiment.parameters, known, f"{source}: parameters")
    model = {name: found.type for name, found in flat_fields(ModelConfig).items() if name not in _SET_BY_TASK}
    require_known(experiment.model, model, f"{source}: model")
    names = [arm.name for arm in experiment.arms]
    for pair in experiment.differences:
        for name in pair:
            if name not in names:
                raise UserError(f"{source}: differences: unknown arm '{name}'; {suggestion(name, names)}")
    if not experiment.seeds:
        raise UserError(f"{source}: 'seeds' is empty; give at least one")
    return dataclasses.replace(
        experiment,
        parameters=_converted(experiment.parameters, known, f"{source}: parameters"),
        model=_converted(experiment.model, model, f"{source}: model"),
        finetune=converted_settings(experiment.finetune, FinetuneConfig, f"{source}: finetune", presets=True),
    )


def _converted(values: dict[str, Any], kinds: dict[str, Any], where: str) -> dict[str, Any]:
    return {name: convert(value, kinds[name], f"{where}: {name}") for name, value in values.items()}
