"""``--config run.json`` gives the settings of an earlier run, from any directory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.cli.flags import parse
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_flat, to_plain
from pause_megatron.errors import UserError
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import write_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.records.pretraining import RunRecord
from tests.records.examples import example

PRETRAIN = "pause-megatron pretrain"
FLAGS = ["--data", "0.7", "data/a", "3e-1", "./7", "--validation-data", "/held-out", "--tokenizer", "tokenizer"]
FLAGS += [
    "--deepspeed",
    "ds.json",
    "--data-cache",
    "cache",
    "--preset",
    "tiny",
    "--train-iters",
    "9",
    "--processes",
    "2",
]
FLAGS += ["--rampup-batch-size", "8", "8", "100", "--tensorboard", "--async-save"]


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    """A run in ``project/runs/first``, started in ``project``, the current directory."""
    project = tmp_path / "project"
    (project / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(project)
    config: PretrainConfig = parse(PretrainConfig, PRETRAIN, [*FLAGS, "--output", "runs/first"])
    record = replace(example(RunRecord), config=to_plain(config), directory="../..")
    write_record(project / "runs" / "first" / "run.json", record)
    return config


def again(*arguments: str) -> PretrainConfig:
    config: PretrainConfig = parse(PretrainConfig, PRETRAIN, list(arguments))
    return config


def test_name_of_a_shipped_deepspeed_file_stays_a_name(
    earlier: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("runs/first/run.json").resolve()
    named = replace(
        example(RunRecord), config=to_plain(replace(earlier, deepspeed=Path("zero1_fp32"))), directory="../.."
    )
    write_record(path, named)
    monkeypatch.chdir(tmp_path)
    assert again("--config", str(path), "--output", "O").deepspeed == Path("zero1_fp32")
    (tmp_path / "project" / "zero1_fp32").touch()  # a file of the user comes first
    assert again("--config", str(path), "--output", "O").deepspeed == Path("project/zero1_fp32")


def test_run_is_repeated_with_its_settings_and_another_output(earlier: PretrainConfig) -> None:
    config = again("--config", "runs/first/run.json", "--output", "runs/second")
    assert replace(config, data=earlier.data) == replace(earlier, output=Path("runs/second"))
    assert config.data_parts == earlier.data_parts
    longer = again("--output", "O", "--train-iters", "99", "--config", "runs/first/run.json")
    assert longer.training == replace(earlier.training, train_iters=99)


@pytest.mark.parametrize("moved", [False, True])
def test_relative_paths_are_found_from_any_directory(
    earlier: PretrainConfig, moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    if moved:
        project = Path(shutil.move(project, tmp_path / "moved"))
    monkeypatch.chdir(tmp_path / "..")
    config = again("--config", str(project / "runs/first/run.json"), "--output", "O")
    assert [part.folder.resolve() for part in config.data_parts] == [project / "data/a", project / "7"]
    assert [part.weight for part in config.data_parts] == [0.7, 0.3]
    assert config.validation_data == ("/held-out",)
    assert config.tokenizer.resolve() == project / "tokenizer"
    assert config.deepspeed.resolve() == project / "ds.json"
    assert config.data_cache.resolve() == project / "cache"


def test_file_of_an_older_version_starts_from_the_current_directory(
    earlier: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "project" / "runs" / "first" / "run.json"
    write_record(path, replace(example(RunRecord), config=to_plain(earlier), directory=None))
    monkeypatch.chdir(tmp_path)
    assert again("--config", str(path), "--output", "O").tokenizer == Path("tokenizer")


def test_output_must_be_given(earlier: PretrainConfig) -> None:
    with pytest.raises(UserError, match=r"^--output: required"):
        again("--config", "runs/first/run.json")


def test_record_of_another_command_is_refused(earlier: PretrainConfig) -> None:
    write_record(Path("finetune.json"), example(FinetuneRecord))
    with pytest.raises(UserError, match=r"^--config finetune.json: is of 'pause-megatron finetune'; give it to that"):
        again("--config", "finetune.json", "--output", "O")
    Path("run.json").write_text('{"format": "pause_megatron/run/1"}')
    with pytest.raises(UserError, match=r"^--config run.json: not complete; give a file that"):
        again("--config", "run.json", "--output", "O")


@pytest.mark.parametrize(
    ("config_class", "record"), [(FinetuneConfig, FinetuneRecord), (EvaluateConfig, EvaluationRecord)]
)
def test_finetuning_and_evaluation_are_repeated(config_class: type, record: type, tmp_path: Path) -> None:
    flags = ["--model", "hf/m", "--task", "parity", "--data", "tasks/parity", "--prefix-attention", "causal"]
    flags += ["--pause-placement", "prepend", "--output", "old"]
    config = parse(config_class, record.PRODUCER, flags)
    write_record(tmp_path / "record.json", replace(example(record), config=to_flat(config)))
    arguments = ["--config", str(tmp_path / "record.json"), "--output", "new"]
    assert parse(config_class, record.PRODUCER, arguments) == replace(config, output=Path("new"))
