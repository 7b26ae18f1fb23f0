"""A run started with relative paths is exported and repeated from any directory, also after it was moved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.cli.flags import parse
from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.conversion.to_hf import convert_to_hf
from pause_megatron.errors import UserError
from pause_megatron.log import read_json_lines
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_record
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from pause_megatron.training.pretrain import pretrain
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer
from tests.checkpoint.handmade import rewrite_manifest
from tests.distributed import run_distributed

PRETRAIN = "pause-megatron pretrain"
FLAGS = ["--data", "data/pause", "--tokenizer", "tokenizer", "--deepspeed", "zero1.json", "--output", "runs/first"]
FLAGS += ["--preset", "tiny", "--max-position-embeddings", str(SEQ_LENGTH), "--global-batch-size", "4"]
FLAGS += ["--train-iters", "2", "--log-interval", "1"]


def pretrain_in(folder: Path, flags: list[str]) -> None:
    os.chdir(folder)
    pretrain(parse(PretrainConfig, PRETRAIN, flags))


def convert_in(folder: Path, checkpoint: Path, output: Path) -> int:
    """Export, and return the number of texts on which the tokenizers were compared."""
    os.chdir(folder)
    convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=output))
    return read_record(output / ExportRecord.FILE, ExportRecord).tokenizer.texts_compared


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, tokenizer and a run, which was moved after the run."""
    project = tmp_path_factory.mktemp("project")
    write_text_and_tokenizer(project)
    write_dataset(project, "data/pause")
    shutil.copy(Path(__file__).parents[2] / "ds_configs" / "zero1_fp32.json", project / "zero1.json")
    run_distributed(pretrain_in, 1, project, FLAGS)
    return Path(shutil.move(project, tmp_path_factory.mktemp("elsewhere") / "moved"))


def test_export_finds_tokenizer_and_data_from_another_directory(moved: Path, tmp_path: Path) -> None:
    [compared] = run_distributed(convert_in, 1, tmp_path, moved / "runs" / "first", tmp_path / "hf")
    assert compared > len(EDGE_CASE_TEXTS)


def test_checkpoint_that_was_copied_alone_is_exported(moved: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "alone"
    shutil.copytree(moved / "runs" / "first" / CHECKPOINTS / checkpoint_name(2), checkpoint)
    content = (moved / "tokenizer" / "tokenizer.model").read_bytes()
    assert (checkpoint / "tokenizer" / "tokenizer.model").read_bytes() == content
    assert run_distributed(convert_in, 1, tmp_path, checkpoint, tmp_path / "hf") == [len(EDGE_CASE_TEXTS)]

    path = checkpoint / "tokenizer" / "tokenizer.model"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    config = ConvertToHfConfig(checkpoint=checkpoint, output=tmp_path / "refused")
    with pytest.raises(UserError, match=rf"^{path}: damaged"):
        convert_to_hf(config)
    shutil.rmtree(path.parent)
    with pytest.raises(UserError, match=rf"^{path}: missing from the checkpoint"):
        convert_to_hf(config)


def test_checkpoint_of_an_older_version_needs_the_tokenizer(moved: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "older"
    shutil.copytree(moved / "runs" / "first" / CHECKPOINTS / checkpoint_name(2), checkpoint)
    shutil.rmtree(checkpoint / "tokenizer")

    def as_before(content: dict) -> None:
        content["files"] = {name: entry for name, entry in content["files"].items() if "/" not in name}
        del content["state"]["directory"]

    rewrite_manifest(checkpoint, as_before)
    with pytest.raises(UserError, match=rf"^{checkpoint}: contains no tokenizer, and tokenizer does not exist; give"):
        convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=tmp_path / "refused"))


def test_run_is_repeated_from_its_file(moved: Path, tmp_path: Path) -> None:
    run_distributed(pretrain_in, 1, tmp_path, ["--config", str(moved / "runs/first/run.json"), "--output", "again"])
    first, again = (
        [line["loss"] for line in read_json_lines(run / "metrics.jsonl") if line["kind"] == "train"]
        for run in (moved / "runs" / "first", tmp_path / "again")
    )
    assert len(first) == 2
    assert again == first
