"""Reads the key ``pretrain`` of a grid file: the models that a study pretrains, and their data."""

from pathlib import Path
from typing import Any

from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.preprocess import USED_BY_STRATEGY, InsertionConfig, PreprocessConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flat_fields
from pause_megatron.config.study import Pretraining, StudyModel
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.corpus.hub_datasets import HUB_PREFIX
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_settings import (
    INSERTION_KEYS,
    convert,
    converted_settings,
    field_names,
    read_path,
    require_known,
    require_name,
)

_MODEL_KEYS = (*INSERTION_KEYS, "data", "train")
_LISTS = ("text", "validation_text", "seeds")


def read_pretraining(values: Any, where: str) -> Pretraining:
    """Return the content of the key ``pretrain``; ``where`` names file and key in errors.

    Raises :class:`UserError` for a key that is missing, unknown or of the wrong type, and for settings that their
    commands refuse.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}; write lines such as 'key: value'")
    require_known(values, set(field_names(Pretraining)) - {"make_tokenizer"}, where)
    for key in ("models", "sizes"):
        if not values.get(key):
            example = "'stdpt: {pauses: none}'" if key == "models" else "[130m]"
            raise UserError(f"{where}: '{key}' is missing; add it, for example {example}")
    fields = flat_fields(Pretraining)
    plain = {
        key: convert(
            [value] if key in _LISTS and not isinstance(value, list) else value, fields[key].type, f"{where}: {key}"
        )
        for key, value in values.items()
        if key in (*_LISTS, "parts", "merge", "verify", "processes", "folder") and value is not None
    }
    preprocess = converted_settings(values.get("preprocess"), PreprocessConfig, f"{where}: preprocess")
    study = Pretraining(
        **{**plain, **{key: tuple(map(absolute_text, plain.get(key, ()))) for key in ("text", "validation_text")}},
        **_tokenizer(values.get("tokenizer"), f"{where}: tokenizer"),
        models=_models(values["models"], preprocess, f"{where}: models"),
        sizes=_sizes(values["sizes"], f"{where}: sizes"),
        preprocess=preprocess,
        train=converted_settings(values.get("train"), PretrainConfig, f"{where}: train"),
        export=converted_settings(values.get("export"), ConvertToHfConfig, f"{where}: export"),
    )
    _require_complete(study, where)
    return study


def absolute_text(text: str) -> str:
    """Return a path or glob of a text as an absolute one; names of the hub stay."""
    return text if text.startswith(HUB_PREFIX) else str(Path(text).absolute())


def _tokenizer(value: Any, where: str) -> dict[str, Any]:
    """Return the tokenizer's folder, or the settings to make one: by default to train it on the text."""
    if isinstance(value, str):
        return {"tokenizer": read_path(Path, value)}
    return {"make_tokenizer": converted_settings(value, TokenizerConfig, where)}


def _models(values: Any, preprocess: dict[str, Any], where: str) -> dict[str, StudyModel]:
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}; write lines such as 'stdpt: {{pauses: none}}'")
    models: dict[str, StudyModel] = {}
    for name, model in values.items():
        place = f"{where}: {name}"
        require_name(str(name), where)
        if not isinstance(model, dict) or ("pauses" in model) == ("data" in model):
            raise UserError(f"{place}: needs either 'pauses' or 'data'; write for example {{pauses: none}}")
        require_known(model, _MODEL_KEYS, place)
        train = converted_settings(model.get("train"), PretrainConfig, f"{place}: train")
        if "data" in model:
            if unused := [key for key in model if key in INSERTION_KEYS]:
                raise UserError(f"{place}: {unused[0]}: not used with 'data', which has its pauses; remove it")
            found = StudyModel(data=convert(model["data"], Path, f"{place}: data"), train=train)
        else:
            found = StudyModel(insertion=_insertion(model, preprocess, place), train=train)
        if twin := next((other for other, known in models.items() if known == found), None):
            raise UserError(f"{place}: has the same data and settings as {twin}; change or remove one of them")
        models[str(name)] = found
    return models


def _insertion(model: dict[str, Any], preprocess: dict[str, Any], place: str) -> InsertionConfig:
    kinds = flat_fields(InsertionConfig)
    own = {key: convert(model[key], kinds[key].type, f"{place}: {key}") for key in INSERTION_KEYS if key in model}
    shared = {key: value for key, value in preprocess.items() if key in kinds}
    if unused := [key for key in own if key not in ("pauses", *USED_BY_STRATEGY[own["pauses"]])]:
        raise UserError(f"{place}: {unused[0]}: not used by 'pauses: {own['pauses']}'; remove it")
    try:
        return InsertionConfig(**shared, **own)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _sizes(values: Any, where: str) -> dict[str, dict[str, Any]]:
    """Return settings by name; a list, and a name without settings, are of presets."""
    written = dict.fromkeys(map(str, values)) if isinstance(values, list) else values
    if not isinstance(written, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}; give a list of presets, such as [130m]")
    for name in written:
        require_name(str(name), where)
    require_known([name for name, size in written.items() if not size], PretrainConfig.PRESETS, where, what="preset")
    return {str(name): converted_settings(size, PretrainConfig, f"{where}: {name}") for name, size in written.items()}


def _require_complete(study: Pretraining, where: str) -> None:
    for key in ("train_iters", "deepspeed"):
        if key not in study.train:
            raise UserError(f"{where}: train: '{key}' is missing; add it, as for 'pause-megatron pretrain'")
    if not study.seeds:
        raise UserError(f"{where}: 'seeds' is empty; give at least one value, or remove the key")
    if min(study.parts, study.processes) < 1 or study.merge < 0:
        raise UserError(f"{where}: parts, processes: must be at least 1, and merge at least 0; correct them")
    if any(model.insertion for model in study.models.values()) and not study.text:
        raise UserError(f"{where}: 'text' is missing; add the files, or give --set pretrain.text=FILES")
    if not study.text and study.tokenizer is None and "from_tokenizer" not in study.make_tokenizer:
        raise UserError(f"{where}: 'tokenizer' is missing; give the tokenizer of the data")
