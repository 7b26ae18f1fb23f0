"""``pause-megatron pretrain``: check what was given, start the process groups, run."""

from __future__ import annotations

from pause_megatron.config.deepspeed import read_deepspeed_file
from pause_megatron.config.parallel import check_batches, resolve_layout
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping, to_plain
from pause_megatron.data.folders import check_training_folders, check_validation_folders
from pause_megatron.errors import EXIT_DONE
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
    positions = config.model.max_position_embeddings
    training_data = check_training_folders(
        config.data_parts,
        tokenizer,
        seq_length=config.training.seq_length,
        max_position_embeddings=positions,
    )
    validation_data = check_validation_folders(
        config.validation_parts,
        tokenizer,
        seq_length=training_data[0].seq_length,
        max_position_embeddings=positions,
    )
    deepspeed_file = read_deepspeed_file(config.deepspeed)
    layout = resolve_layout(
        config.parallel,
        world_size=launch.world_size,
        model=config.model,
        vocab_size=tokenizer.vocab_size,
        deepspeed=deepspeed_file,
    )
    for batch_size in config.training.batch_sizes():
        check_batches(
            layout,
            deepspeed_file,
            num_microbatches=config.training.num_microbatches(layout.dp, batch_size),
            seq_length=training_data[0].seq_length,
        )
    initialize_process_groups(launch, layout, seed=config.training.seed)
    try:
        run = PretrainRun(config, launch, layout, deepspeed_file, tokenizer, training_data, validation_data)
        run.resume()
        run.train()
    finally:
        destroy_process_groups()
