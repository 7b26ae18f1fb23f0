"""``run.json``: what a run is, for whoever finds its folder."""

from __future__ import annotations

from typing import Any

from pause_megatron import log
from pause_megatron.atomic import write_json
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.data.sample_order import TrainingData
from pause_megatron.parallel.launcher import Launch
from pause_megatron.training.inputs import PretrainInputs
from pause_megatron.training.state import describe_data
from pause_megatron.versions import versions

RUN_FILE = "run.json"
RUN_FORMAT = "pause_megatron/run/1"


def write_run_file(config: PretrainConfig, launch: Launch, inputs: PretrainInputs, data: TrainingData) -> None:
    """Say what the run is, to a person and in its folder; for rank 0."""
    deepspeed_file = inputs.deepspeed_file
    parameters = config.model.num_parameters(inputs.tokenizer.vocab_size)
    dataset: dict[str, Any] = describe_data(data)
    log.info(
        f"{config.output.name}: {parameters:,} parameters, {inputs.layout}, ZeRO-{deepspeed_file.zero_stage},"
        f" {deepspeed_file.precision}"
    )
    log.info(f"{len(data):,} sequences of {data.seq_length} tokens, pauses: {dataset['strategy']}")
    write_json(
        config.output / RUN_FILE,
        {
            "format": RUN_FORMAT,
            "name": config.output.name,
            "config": to_plain(config),
            "deepspeed": deepspeed_file.values,
            "versions": versions(),
            "dataset": dataset,
            "parameters": parameters,
            "world_size": launch.world_size,
            "zero_stage": deepspeed_file.zero_stage,
        },
    )
