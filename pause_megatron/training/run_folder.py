"""Run folder: its lock, which admits one run at a time, and its ``run.json``."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pause_megatron import log
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.data.sample_order import TrainingData
from pause_megatron.locks import sole_owner
from pause_megatron.parallel.collectives import run_on_rank_0
from pause_megatron.parallel.launcher import Launch
from pause_megatron.parallel.slurm_step import describe_job
from pause_megatron.records.files import write_record
from pause_megatron.records.pretraining import DeviceRecord, RunRecord
from pause_megatron.training.inputs import PretrainInputs
from pause_megatron.training.state import describe_data
from pause_megatron.versions import versions


@contextmanager
def owned_run_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder`` in the block; all ranks enter together, and rank 0 holds the lock.

    Two runs in one folder would overwrite each other's checkpoints and metrics. Raises :class:`UserError` on every rank
    when another run holds the lock, with its machine, process and job.
    """
    refusal = f"--output {folder}: another run is using it; wait until it ends, or give another folder"

    def lock() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        owner = describe_job(os.environ)
        stack.enter_context(sole_owner(folder, refusal=refusal, owner=owner))

    with ExitStack() as stack:
        run_on_rank_0(lock)
        yield


def path_to_here(folder: Path) -> str:
    """Return the path from ``folder`` to the current directory, from which relative paths of a configuration start."""
    return os.path.relpath(Path.cwd(), folder.resolve())


def write_run_file(
    config: PretrainConfig, launch: Launch, inputs: PretrainInputs, data: TrainingData, devices: DeviceRecord
) -> None:
    """Log the model, the layout and the data, and write ``run.json``; rank 0 only."""
    deepspeed_file = inputs.deepspeed_file
    parameters = config.model.num_parameters(inputs.tokenizer.vocab_size)
    dataset = describe_data(data)
    log.info(
        f"{config.output.name}: {parameters:,} parameters, {inputs.layout}, ZeRO-{deepspeed_file.zero_stage},"
        f" {deepspeed_file.precision}"
    )
    log.info(f"{len(data):,} sequences of {data.seq_length} tokens, pauses: {dataset.strategy}")
    record = RunRecord(
        name=config.output.name,
        model_name=config.model_name or config.output.name,
        seed=config.training.seed,
        config=to_plain(config),
        directory=path_to_here(config.output),
        deepspeed=deepspeed_file.values,
        versions=versions(),
        dataset=dataset,
        parameters=parameters,
        non_embedding_parameters=config.model.non_embedding_parameters,
        world_size=launch.world_size,
        zero_stage=deepspeed_file.zero_stage,
        devices=devices,
    )
    write_record(config.output / RunRecord.FILE, record)
