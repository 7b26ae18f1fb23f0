"""Runs whose data has an id beyond the vocabulary: every rank stops with one line, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import CheckpointConfig, LoggingConfig, TrainingConfig
from pause_megatron.data.data_folders import check_training_folders
from pause_megatron.data.datasets import SequenceDataset
from pause_megatron.data.sample_order import TrainingData
from pause_megatron.errors import UserError
from pause_megatron.log import read_json_lines
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.pretrain import pretrain
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer
from tests.data.test_data_folders import parts
from tests.distributed import run_distributed
from tests.training.runs import Run

BAD_STEP = 3
FOREIGN = 60_000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A small run on two ranks."""
    folder = tmp_path_factory.mktemp("damaged-data")
    write_text_and_tokenizer(folder)
    (folder / "zero1.json").write_text(json.dumps(Run().deepspeed_file.values))
    return PretrainConfig(
        data=(str(write_dataset(folder, "pause")),),
        validation_data=(str(write_dataset(folder, "held-out", "validation")),),
        tokenizer=folder / "tokenizer",
        deepspeed=folder / "zero1.json",
        output=folder / "run",
        model=ModelConfig(num_layers=1, hidden_size=32, num_attention_heads=4, max_position_embeddings=SEQ_LENGTH),
        training=TrainingConfig(train_iters=5, global_batch_size=4, validation_interval=2, validation_sequences=8),
        checkpoint=CheckpointConfig(save_interval=100),
        logging=LoggingConfig(log_interval=1),
    )


def refused(config: PretrainConfig) -> str:
    with pytest.raises(UserError) as error:
        pretrain(config)
    return str(error.value)


def put_foreign_id(folder: Path, sequence: int) -> tuple[Path, bytes]:
    """Damage token 9 of a stored sequence; return its file and the file's content before."""
    for shard in load_dataset_manifest(folder).shards:
        if sequence < shard.sequences:
            break
        sequence -= shard.sequences
    path = folder / f"{shard.name}.bin"
    content = path.read_bytes()
    tokens = np.frombuffer(content, np.uint16).copy()
    tokens[sequence * SEQ_LENGTH + 9] = FOREIGN
    path.write_bytes(tokens.tobytes())
    return path, content


def losses(run: Path) -> dict[tuple[str, int], float]:
    return {
        (line["kind"], line["iteration"]): line["loss"]
        for line in read_json_lines(run / "metrics.jsonl")
        if "loss" in line
    }


def sequence_at(config: PretrainConfig, position: int) -> int:
    """The stored sequence at ``position`` of the training data."""
    [folder] = check_training_folders(
        parts(Path(config.data[0])),
        PauseTokenizer.load(config.tokenizer),
        seq_length=0,
        max_position_embeddings=SEQ_LENGTH,
    )
    return TrainingData([SequenceDataset(folder)], config.training.seed).locate(position)[1]


def test_run_stops_before_the_batch_and_resumes_after_the_repair(config: PretrainConfig) -> None:
    undisturbed = replace(config, output=config.output.with_name("undisturbed"))
    run_distributed(pretrain, 2, undisturbed)
    last_of_step = (BAD_STEP - 1) * config.training.global_batch_size + 3  # of the second data-parallel rank
    sequence = sequence_at(config, last_of_step)
    path, content = put_foreign_id(Path(config.data[0]), sequence)
    try:
        first, second = run_distributed(refused, 2, config)
    finally:
        path.write_bytes(content)
    assert first == second
    assert first.startswith(f"{path}: id {FOREIGN} at token 9 of the sequence of")
    assert f"(sequence {sequence} of {config.data[0]})" in first
    assert (config.output / "checkpoints" / f"iter_{BAD_STEP - 1:07d}").is_dir()
    assert ("train", BAD_STEP) not in losses(config.output)
    run_distributed(pretrain, 2, config)
    assert losses(config.output) == losses(undisturbed.output)


def test_tensor_parallel_ranks_refuse_the_id_too(config: PretrainConfig) -> None:
    """Their embeddings would take an id of no rank for zeros."""
    parallel = ParallelConfig(tensor_model_parallel_size=2)
    config = replace(config, parallel=parallel, output=config.output.with_name("tensor-parallel"))
    path, content = put_foreign_id(Path(config.data[0]), sequence_at(config, 2))
    try:
        first, second = run_distributed(refused, 2, config)
    finally:
        path.write_bytes(content)
    assert first == second
    assert first.startswith(f"{path}: id {FOREIGN} at token 9 of the sequence of")


def test_validation_data_are_checked_too(config: PretrainConfig) -> None:
    config = replace(config, output=config.output.with_name("validation"))
    path, content = put_foreign_id(Path(config.validation_data[0]), 5)
    try:
        first, second = run_distributed(refused, 2, config)
    finally:
        path.write_bytes(content)
    assert first == second
    assert first.startswith(f"{path}: id {FOREIGN} at token 9 of the sequence of")
    assert (config.output / "checkpoints" / "iter_0000002").is_dir()


def test_verify_data_refuses_before_the_first_step(config: PretrainConfig) -> None:
    config = replace(config, verify_data=True, output=config.output.with_name("verified"))
    path, content = put_foreign_id(Path(config.data[0]), sequence_at(config, 10_000))
    try:
        first, second = run_distributed(refused, 2, config)
    finally:
        path.write_bytes(content)
    assert first == second
    assert first.startswith(f"{path}: the SHA-256 of bytes 0 to {len(content)} is not the manifest's; copy")
    assert not (config.output / "metrics.jsonl").exists()
