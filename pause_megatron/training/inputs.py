"""Inputs of a run, read and checked before any process group exists or memory is allocated."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pause_megatron.checkpoint.checkpoint_folders import find_checkpoint
from pause_megatron.checkpoint.checkpoint_manifest import read_manifest
from pause_megatron.config.deepspeed import DeepSpeedFile, read_deepspeed_file
from pause_megatron.config.parallel import Layout, check_batches, resolve_layout
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.data.data_folders import DataFolder, check_training_folders, check_validation_folders
from pause_megatron.errors import UserError
from pause_megatron.records.checkpoint_state import CheckpointState, GenerationTokens
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.tokenizer_files import copy_tokenizer
from pause_megatron.training.state import model_differences


@dataclass(frozen=True, kw_only=True)
class PretrainInputs:
    """Files of a configuration, checked against each other."""

    tokenizer: PauseTokenizer
    tokenizer_files: dict[str, bytes]
    """Name to content of the files that each checkpoint contains of the tokenizer."""
    training_data: tuple[DataFolder, ...]
    validation_data: tuple[DataFolder, ...]
    deepspeed_file: DeepSpeedFile
    layout: Layout
    initial_checkpoint: Path | None
    """Checkpoint folder of the initial weights; None for random weights."""
    generation: GenerationTokens | None
    """Tokens of the Hugging Face model that the initial weights come from; exports keep them."""

    @property
    def seq_length(self) -> int:
        """Tokens of a training sequence."""
        return self.training_data[0].seq_length


def check_inputs(config: PretrainConfig, *, world_size: int) -> PretrainInputs:
    """Read and check the files of ``config``. Raises :class:`UserError` with the path or flag to change."""
    tokenizer = PauseTokenizer.load(config.tokenizer)
    positions = config.model.max_position_embeddings
    shares_positions = config.model.shares_positions
    training_data = check_training_folders(
        config.data_parts,
        tokenizer,
        seq_length=config.training.seq_length,
        max_position_embeddings=positions,
        shares_positions=shares_positions,
    )
    validation_data = check_validation_folders(
        config.validation_parts,
        tokenizer,
        seq_length=training_data[0].seq_length,
        max_position_embeddings=positions,
        shares_positions=shares_positions,
    )
    deepspeed_file = read_deepspeed_file(config.deepspeed)
    layout = resolve_layout(
        config.parallel,
        world_size=world_size,
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
    initial_checkpoint, generation = _initial_checkpoint(config, tokenizer)
    return PretrainInputs(
        tokenizer=tokenizer,
        tokenizer_files=_read_files(tokenizer),
        training_data=training_data,
        validation_data=validation_data,
        deepspeed_file=deepspeed_file,
        layout=layout,
        initial_checkpoint=initial_checkpoint,
        generation=generation,
    )


def _read_files(tokenizer: PauseTokenizer) -> dict[str, bytes]:
    """Return name to content of the files of ``tokenizer`` that its loading needs."""
    try:
        with TemporaryDirectory() as folder:
            copy_tokenizer(tokenizer, Path(folder))
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    except OSError as error:
        raise UserError(f"--tokenizer {tokenizer.path}: cannot be copied ({error}); start the run again") from error


def _initial_checkpoint(
    config: PretrainConfig, tokenizer: PauseTokenizer
) -> tuple[Path | None, GenerationTokens | None]:
    """Folder of ``--initial-checkpoint``, and the tokens of its Hugging Face model.

    Raises :class:`UserError` if its model or tokenizer is another one.
    """
    if config.initial_checkpoint is None:
        return None, None
    folder = find_checkpoint(config.initial_checkpoint, "--initial-checkpoint")
    state = CheckpointState.read(read_manifest(folder).state, folder)
    for flag, there, here in model_differences(state, config.model, tokenizer):
        # Without pauses both kinds of positions are the same.
        free = flag == "--pause-positions" and state.dataset.strategy == "none"
        if there != here and not free:
            raise UserError(f"--initial-checkpoint {folder}: has {flag} {there}, but {here} is given; give {there}")
    return folder, state.generation
