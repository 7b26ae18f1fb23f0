"""``pause-megatron pretrain``: check what was given, start the process groups, run."""

from __future__ import annotations

from pathlib import Path

from pause_megatron.config.deepspeed import read_deepspeed_file
from pause_megatron.config.parallel import resolve_layout
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping, to_plain
from pause_megatron.data.sequences import SequenceDataset
from pause_megatron.errors import EXIT_DONE, UserError
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.parallel.local import run_local_processes
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.run import PretrainRun


def pretrain(config: PretrainConfig) -> None:
    """Train until ``train_iters``, from the newest checkpoint in ``config.output`` or from the start.

    Raises :class:`UserError` before any process group exists for whatever can be told by then: paths, tokenizer,
    datasets, layout, DeepSpeed file.
    """
    launch = detect_launch()
    if config.processes > 1 and launch.launcher == "none":
        one_process = to_plain(config) | {"processes": 1}
        flags = flags_of_mapping(one_process, PretrainConfig, source="pretrain")
        code = run_local_processes(["pretrain", *flags], config.processes)
        if code != EXIT_DONE:
            raise SystemExit(code)
        return
    tokenizer = PauseTokenizer.load(config.tokenizer)
    dataset = _open_dataset(config.data, tokenizer, config)
    validation = [_open_dataset(folder, tokenizer, config) for folder in config.validation_data]
    deepspeed_file = read_deepspeed_file(config.deepspeed)
    layout = resolve_layout(
        config.parallel,
        world_size=launch.world_size,
        model=config.model,
        vocab_size=tokenizer.vocab_size,
        zero_stage=deepspeed_file.zero_stage,
    )
    config.training.num_microbatches(layout.dp)
    initialize_process_groups(launch, layout, seed=config.training.seed)
    try:
        run = PretrainRun(config, launch, layout, deepspeed_file, tokenizer, dataset, validation)
        run.resume()
        run.train()
    finally:
        destroy_process_groups()


def _open_dataset(folder: Path, tokenizer: PauseTokenizer, config: PretrainConfig) -> SequenceDataset:
    dataset = SequenceDataset(folder)
    dataset.check_tokenizer(tokenizer)
    if dataset.manifest.seq_length > config.model.max_position_embeddings:
        raise UserError(
            f"{folder} has sequences of {dataset.manifest.seq_length} tokens, longer than --max-position-embeddings"
            f" {config.model.max_position_embeddings}"
        )
    return dataset
