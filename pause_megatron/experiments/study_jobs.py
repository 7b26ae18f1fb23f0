"""Jobs of a study before finetuning: tokenizer, datasets, pretraining of every model, size and seed, and exports."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.dataset import MergeDatasetsConfig, VerifyDatasetConfig
from pause_megatron.config.preprocess import USED_BY_STRATEGY, InsertionConfig, PreprocessConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import build, flat_fields
from pause_megatron.config.study import Equality, Pretraining, StudyModel
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.job import LOGS, Job
from pause_megatron.experiments.job_outputs import Output, path_of
from pause_megatron.experiments.study_budget import Run, check_budgets, iterations_of, positions_of


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """One model to finetune: a pretrained model of one size from one seed."""

    key: str
    """Name in files, unique in the grid."""
    name: str
    """Name in results, which pretraining seeds share."""
    folder: Path
    """Exported Hugging Face folder."""
    size: str | None = None
    """Name of its size in the study; None for a given model, which belongs to every size."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that must be done before."""


@dataclass(frozen=True, kw_only=True)
class StudyJobs:
    """The jobs of a study up to its exports, and the models that these export."""

    jobs: list[Job]
    models: list[PretrainedModel]
    runs: dict[Run, PretrainConfig]


def study_jobs(study: Pretraining, output: Path, where: str, *, equal: Equality) -> StudyJobs:
    """Return the jobs of ``study``, each after those it needs; ``where`` names the file and the key in errors.

    Raises :class:`UserError` for settings that a command refuses, and for models that cannot be compared.
    """
    data = DataJobs(study, output)
    runs = [(seed, size, name) for seed in dict.fromkeys(study.seeds) for size in study.sizes for name in study.models]
    jobs, models, configs = [*data.jobs], [], dict[Run, PretrainConfig]()
    for seed, size, name in runs:
        key = f"{name}-pt{seed}-{size}"
        try:
            pretrain = _pretrain_job(study, data, output, (name, size, seed), equal)
        except UserError as error:
            raise UserError(f"{where}: {name} of size {size}: {error}") from error
        export = _export_job(study, output, key, pretrain)
        [config] = pretrain.outputs
        assert isinstance(config, PretrainConfig)
        configs[name, size, seed] = config
        jobs += [pretrain, export]
        models.append(PretrainedModel(key=key, name=name, size=size, folder=output / "hf" / key, needs=(export.name,)))
    check_budgets(study, configs, where, equal=equal)
    return StudyJobs(jobs=jobs, models=models, runs=configs)


def insertion_name(insertion: InsertionConfig) -> str:
    """Return the name of a dataset's folder, for example ``sequence-0.1``, ``every-3`` or ``none``."""
    defaults = flat_fields(InsertionConfig)
    parts: list[str] = [insertion.pauses]
    for key in USED_BY_STRATEGY[insertion.pauses]:
        value = getattr(insertion, key)
        if key in ("pause_rate", "pauses_per_token"):
            parts.append(f"{value:g}")
        elif value != defaults[key].default:
            parts.append(f"interval{value}" if key == "pause_interval" else value)
    return "-".join(parts)


class DataJobs:
    """Jobs that make the tokenizer and the datasets of a study."""

    def __init__(self, study: Pretraining, output: Path) -> None:
        self._study = study
        self._folder = study.folder or output
        self._logs = output / LOGS
        self.tokenizer = study.tokenizer or self._folder / "tokenizer"
        self.jobs: list[Job] = []
        self._ready: dict[Path, str] = {}
        insertions = [model.insertion for model in study.models.values() if model.insertion]
        self.insertions = {insertion_name(insertion): insertion for insertion in insertions}
        """Name to insertion of each dataset that the study makes."""
        if not study.tokenizer:
            self._make_tokenizer()
        if self.insertions:
            self._make_training_data()
            self._make_validation_data()

    def folder_of(self, model: StudyModel) -> Path:
        """Return the folder of the training data of ``model``."""
        if model.insertion is None:
            assert model.data is not None
            return model.data
        return self._training_folder(insertion_name(model.insertion))

    @cached_property
    def validation_folders(self) -> tuple[Path, ...]:
        """The held-out datasets that every model is validated on."""
        names = self.insertions if self._study.validation_text else ()
        return tuple(self._folder / "data" / f"validation-{name}" for name in names)

    def needs_of(self, model: StudyModel) -> tuple[str, ...]:
        """Return the jobs that make the data of ``model`` and the held-out data."""
        folders = [self.folder_of(model), *self.validation_folders]
        return tuple(dict.fromkeys(self._ready[folder] for folder in folders if folder in self._ready))

    def _training_folder(self, name: str) -> Path:
        return self._folder / "data" / f"train-{name}{'-merged' if self._study.merge else ''}"

    def _add(self, name: str, command: str, settings: dict[str, Any], outputs: Sequence[Output], *needs: str) -> str:
        job = Job(
            name=name,
            command=command,
            settings=settings,
            outputs=tuple(outputs),
            log=self._logs / f"{name}.log",
            needs=tuple(dict.fromkeys(needs)),
        )
        self.jobs.append(job)
        return name

    def _make_tokenizer(self) -> None:
        settings = {"output": self.tokenizer, **self._study.make_tokenizer}
        if "from_tokenizer" not in settings:
            settings["input"] = self._study.text
        self._add("tokenizer", "tokenizer", settings, [build(TokenizerConfig, settings)])

    def _preprocess(self, name: str, split: str, text: tuple[str, ...], needs: Sequence[str], part: str = "") -> str:
        shared = {"input": text, "tokenizer": self.tokenizer, **self._study.preprocess}
        if part:
            shared["shard_range"] = part
        outputs = []
        for data, insertion in self.insertions.items():
            flat = {key: value for key, value in shared.items() if key not in flat_fields(InsertionConfig)}
            outputs.append(
                PreprocessConfig(**flat, output=self._folder / "data" / f"{split}-{data}", insertion=insertion)
            )
        return self._add(name, "preprocess", shared, outputs, *needs)

    def _make_training_data(self) -> None:
        study, tokenizer = self._study, [job.name for job in self.jobs]
        parts = [
            self._preprocess(f"preprocess-train-{part}", "train", study.text, tokenizer, f"{part}/{study.parts}")
            for part in range(study.parts)
            if study.parts > 1
        ]
        made = self._preprocess("preprocess-train", "train", study.text, [*tokenizer, *parts])
        for name in self.insertions:
            folder = self._training_folder(name)
            self._ready[folder] = self._merge(name, folder, made) if study.merge else made
        self._verify("train", {name: self._training_folder(name) for name in self.insertions})

    def _merge(self, name: str, folder: Path, made: str) -> str:
        source = self._folder / "data" / f"train-{name}"
        settings = {"input": (source,), "output": folder, "files": self._study.merge}
        return self._add(f"merge-{name}", "merge-datasets", settings, [build(MergeDatasetsConfig, settings)], made)

    def _make_validation_data(self) -> None:
        if not self._study.validation_text:
            return
        tokenizer = [job.name for job in self.jobs if job.command == "tokenizer"]
        made = self._preprocess("preprocess-validation", "validation", self._study.validation_text, tokenizer)
        self._ready |= dict.fromkeys(self.validation_folders, made)
        self._verify("validation", dict(zip(self.insertions, self.validation_folders, strict=True)))

    def _verify(self, split: str, folders: dict[str, Path]) -> None:
        """Verify datasets; those with pauses must have the text of the one without."""
        if not self._study.verify:
            return
        makers = {name: self._ready[folder] for name, folder in folders.items()}
        for name, folder in folders.items():
            settings: dict[str, Any] = {"data": folder}
            if name != "none" and "none" in folders:
                settings["standard"] = folders["none"]
            needs = [makers[name], makers.get("none", makers[name])]
            job = self._add(
                f"verify-{split}-{name}", "verify-dataset", settings, [build(VerifyDatasetConfig, settings)], *needs
            )
            self._ready[folder] = job


def _pretrain_job(study: Pretraining, data: DataJobs, output: Path, which: Run, equal: Equality) -> Job:
    name, size, seed = which
    model, key = study.models[name], f"{name}-pt{seed}-{size}"
    preset = None if study.sizes[size] else size
    settings: dict[str, Any] = {"data": (data.folder_of(model),), "tokenizer": data.tokenizer}
    settings |= {"output": output / "runs" / key, "seed": seed}
    settings["model_name"] = name
    settings |= {**study.train, **study.sizes[size], **model.train}
    if held_out := (*map(str, data.validation_folders), *settings.get("validation_data", ())):
        settings["validation_data"] = held_out
    if "train_iters" not in {**study.sizes[size], **model.train}:
        settings["train_iters"] = iterations_of(study, model, settings, equal=equal)
    config = build(PretrainConfig, {**PretrainConfig.PRESETS.get(preset or "", {}), **_as_text(settings)})
    if (needed := positions_of(model, config)) > (positions := config.model.max_position_embeddings):
        raise UserError(f"sequences of {needed} tokens are longer than max_position_embeddings {positions}; raise it")
    return Job(
        name=f"pretrain-{key}",
        command="pretrain",
        settings=settings,
        preset=preset,
        outputs=(config,),
        log=output / LOGS / f"pretrain-{key}.log",
        needs=data.needs_of(model),
        model=key,
        processes=study.processes,
    )


def _as_text(settings: dict[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with the data as text, as on the command line."""
    return {**settings, "data": tuple(map(str, settings["data"]))}


def _export_job(study: Pretraining, output: Path, key: str, pretrain: Job) -> Job:
    checkpoint = path_of(pretrain.outputs[0]).parent
    settings = {"checkpoint": checkpoint, "output": output / "hf" / key, **study.export}
    return Job(
        name=f"export-{key}",
        command="convert-to-hf",
        settings=settings,
        outputs=(build(ConvertToHfConfig, settings),),
        log=output / LOGS / f"export-{key}.log",
        needs=(pretrain.name,),
    )
