"""Outputs of jobs: whether one is complete, and whether it was made with the settings that a grid asks for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pause_megatron.atomic import write_text
from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST
from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.dataset import MergeDatasetsConfig, VerifyDatasetConfig
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.preprocess import USED_BY_STRATEGY, PreprocessConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.report import ReportConfig
from pause_megatron.config.serialize import flat_fields, to_flat, to_plain
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DATASET_FILE, DatasetManifest, read_dataset_manifest
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_json, read_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.records.pretraining import RunRecord

Output = (
    TokenizerConfig
    | PreprocessConfig
    | MergeDatasetsConfig
    | VerifyDatasetConfig
    | PretrainConfig
    | ConvertToHfConfig
    | FinetuneConfig
    | EvaluateConfig
    | ReportConfig
)
"""Configuration of one output."""
Difference = tuple[Path, str, Any, Any]
"""File, setting, its value there, and the value in the grid."""

_TOKENIZER_FILE = "manifest.json"
_REPORT_FILE = "report.html"


def path_of(output: Output) -> Path:
    """Return the file or folder that exists only when ``output`` is complete; :func:`is_made` looks at more."""
    match output:
        case TokenizerConfig():
            return output.output / _TOKENIZER_FILE
        case PreprocessConfig() if output.shard_range:
            return output.output.with_name(f"{output.output.name}.part-{output.shard_range.replace('/', '-of-')}")
        case PreprocessConfig() | MergeDatasetsConfig():
            return output.output / DATASET_FILE
        case VerifyDatasetConfig():
            return output.data.with_name(f"{output.data.name}.verified")
        case PretrainConfig():
            return output.output / CHECKPOINTS / checkpoint_name(output.training.train_iters) / MANIFEST
        case ReportConfig():
            return output.output / _REPORT_FILE
    return output.output


def is_made(output: Output) -> bool:
    """Whether ``output`` is complete, and newer than what it must be made from again."""
    path = path_of(output)
    match output:
        case PreprocessConfig() if output.shard_range:
            return path.exists() or (output.output / DATASET_FILE).exists()
        case VerifyDatasetConfig():
            return _is_newest(path, [output.data / DATASET_FILE])
        case ReportConfig():
            found = (place.rglob("*.json") if place.is_dir() else [place] for place in output.evaluations)
            return _is_newest(path, [file for files in found for file in files])
    return path.exists()


def _is_newest(path: Path, sources: list[Path]) -> bool:
    try:
        return all(source.stat().st_mtime_ns <= path.stat().st_mtime_ns for source in sources) and path.exists()
    except FileNotFoundError:
        return False


def mark_made(output: Output) -> None:
    """Record that the command of ``output`` has succeeded, if the command itself leaves no file that tells."""
    if isinstance(output, VerifyDatasetConfig) or (isinstance(output, PreprocessConfig) and output.shard_range):
        write_text(path_of(output), "")


def difference(output: Output) -> str | None:
    """Describe the first setting in which an output, complete or begun, was made with another value than ``output``.

    Raises :class:`UserError` for a file that this program did not write.
    """
    for kind, find in _DIFFERENCES.items():
        if isinstance(output, kind):
            found = next((one for one in find(output) if one[2] != one[3]), None)
            return found and "{}: was made with {} {}, but the grid has {}".format(*found)
    return None


def _of_finetuning(config: FinetuneConfig) -> Iterator[Difference]:
    if config.output.exists():
        # The folder of a grid may move, and the grid may continue on another device: neither is compared.
        # Nor are pausing settings that the grid leaves open: finetuning decided them by the model.
        open_settings = {name for name, value in to_plain(config.pausing).items() if value is None}
        yield from _recorded(
            config.output / FinetuneRecord.FILE, config, {"output", "device", "model_name", "report_to", *open_settings}
        )


def _of_evaluation(config: EvaluateConfig) -> Iterator[Difference]:
    if config.output.exists():
        yield from _recorded(config.output, config, {"output", "model", "device"})


def _recorded(file: Path, config: Any, free: set[str]) -> Iterator[Difference]:
    content = read_json(file)
    recorded = content.get("config") if isinstance(content, dict) else None
    if not isinstance(recorded, dict):
        raise UserError(f"{file}: holds no 'config'; remove it, this program did not write it")
    # Results of an older version lack newer settings, which had no effect: the default.
    defaults = {name: to_plain(field.default) for name, field in flat_fields(type(config)).items()}
    for key, value in to_flat(config).items():
        if key not in free:
            yield file, key, recorded.get(key, defaults[key]), value


def _of_dataset(config: PreprocessConfig) -> Iterator[Difference]:
    if not (config.output / DATASET_FILE).exists():
        return
    found, asked = read_dataset_manifest(config.output), config.insertion
    keys = (*USED_BY_STRATEGY[asked.pauses], *(("seed",) if asked.pauses in ("sequence", "document") else ()))
    yield config.output, "pauses", found.strategy, asked.pauses
    if asked.pauses != "document":
        yield config.output, "seq_length", found.seq_length, asked.seq_length
    optional = {"pause_interval": found.interval, "rates": found.kind_of_rates}  # keys that a manifest may leave out
    for key in keys:
        yield config.output, key, optional.get(key, getattr(found, key)), getattr(asked, key)
    yield config.output, "text_key", found.text_key, config.text_key


def _of_run(config: PretrainConfig) -> Iterator[Difference]:
    """Compare model, optimizer, batches and the names of the datasets: layout, device and intervals may change."""
    file = config.output / RunRecord.FILE
    if not file.exists():
        return
    recorded = read_record(file, RunRecord).config
    free = {"micro_batch_size", "validation_interval", "validation_sequences"}
    for name in ("model", "optimizer", "training"):
        section = recorded.get(name)
        if not isinstance(section, dict):
            raise UserError(f"{file}: its 'config' has no '{name}'; remove the run, or choose another --output")
        defaults = {key: to_plain(field.default) for key, field in flat_fields(type(getattr(config, name))).items()}
        for key, value in to_plain(getattr(config, name)).items():
            if key not in free:
                yield file, key, section.get(key, defaults[key]), value
    yield file, "data", _folder_names(recorded.get("data", ())), _folder_names(config.data)


def _folder_names(data: Any) -> list[str]:
    return [Path(str(part)).name for part in data]


def _of_export(config: ConvertToHfConfig) -> Iterator[Difference]:
    file = config.output / ExportRecord.FILE
    if file.exists():
        record = read_record(file, ExportRecord)
        yield file, "dtype", record.dtype, config.dtype
        yield file, "bake_pauses", record.tokenizer.baked_pauses, config.bake_pauses
        yield file, "checkpoint", Path(str(record.source.get("checkpoint"))).name, config.checkpoint.name


_DIFFERENCES: dict[type, Callable[[Any], Iterator[Difference]]] = {
    FinetuneConfig: _of_finetuning,
    EvaluateConfig: _of_evaluation,
    PreprocessConfig: _of_dataset,
    PretrainConfig: _of_run,
    ConvertToHfConfig: _of_export,
}


def manifest_of(folder: Path) -> DatasetManifest | None:
    """Return the manifest of a dataset; None if it is not complete yet."""
    return read_dataset_manifest(folder) if (folder / DATASET_FILE).exists() else None
