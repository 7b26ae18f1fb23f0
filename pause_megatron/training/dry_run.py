"""``pause-megatron pretrain --dry-run``: what a run would be, need and take; nothing is started and nothing allocated.

It may be asked on a machine that has neither the GPUs nor the data, such as the one that jobs are submitted from: what
is not there is said, and what is there is checked as a run would check it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pause_megatron import log
from pause_megatron.config.blend import BlendComponent
from pause_megatron.config.deepspeed import Precision, read_deepspeed_file
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.costs.devices import H100_SXM, find_device
from pause_megatron.costs.plan import InfeasibleScale, PlannedRun, plan_scale
from pause_megatron.costs.plan_text import GIB, Hardware, plan_lines
from pause_megatron.data.data_folders import DataFolder, check_training_folders, check_validation_folders
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.schedule import BatchSchedule


@dataclass(frozen=True, kw_only=True)
class FoundData:
    """The training data, as far as this machine has it."""

    folders: tuple[DataFolder, ...]
    """Folders of ``--data`` that are here, checked."""
    absent: tuple[BlendComponent, ...]
    """Those that are not."""
    absent_held_out: tuple[BlendComponent, ...]
    """Folders of ``--validation-data`` that are not here; the others have been checked."""
    seq_length: int
    """Tokens of a sequence; taken from the flags when no folder is here."""


def print_plan(config: PretrainConfig, *, num_processes: int) -> None:
    """Check what ``config`` names and print its plan on standard output; rank 0 only.

    Args:
        config: the run.
        num_processes: processes that were started; planned for where ``--num-gpus`` says nothing.

    Raises :class:`UserError` for whatever a run would be refused for, after the plan when it is the layout: the other
    numbers of GPUs are answered all the same.
    """
    if log.global_rank() != 0:
        return
    tokenizer = PauseTokenizer.load(config.tokenizer)
    deepspeed = read_deepspeed_file(config.deepspeed)
    data = find_data(config, tokenizer)
    run = PlannedRun(
        model=config.model,
        parallel=config.parallel,
        training=config.training,
        deepspeed=deepspeed,
        vocab_size=tokenizer.vocab_size,
        seq_length=data.seq_length,
        samples=BatchSchedule(config.training).consumed_samples(config.training.train_iters),
    )
    scales = {number: plan_scale(run, number) for number in config.num_gpus or (num_processes,)}
    hardware = find_hardware(deepspeed.precision, config.logging.peak_tflops)
    print(f"{config.output}: a dry run, nothing is started")
    for line in (*plan_lines(run, scales, hardware, mfu=config.assumed_mfu), "", *data_lines(data, run.samples)):
        print(line)
    refused = [scale for scale in scales.values() if isinstance(scale, InfeasibleScale)]
    if len(refused) == len(scales):
        raise UserError(refused[0].reason)


def find_data(config: PretrainConfig, tokenizer: PauseTokenizer) -> FoundData:
    """Check the training and held-out data that this machine has.

    Raises :class:`UserError` as a run would.
    """
    positions = config.model.max_position_embeddings
    present, absent = _divide(config.data_parts)
    folders: tuple[DataFolder, ...] = ()
    seq_length = config.training.seq_length or positions
    if present:
        folders = check_training_folders(
            present, tokenizer, seq_length=config.training.seq_length, max_position_embeddings=positions
        )
        seq_length = folders[0].seq_length
    held_out, absent_held_out = _divide(config.validation_parts)
    check_validation_folders(held_out, tokenizer, seq_length=seq_length, max_position_embeddings=positions)
    return FoundData(folders=folders, absent=absent, absent_held_out=absent_held_out, seq_length=seq_length)


def _divide(parts: Sequence[BlendComponent]) -> tuple[tuple[BlendComponent, ...], tuple[BlendComponent, ...]]:
    """The parts whose folders are here, and the others."""
    present = tuple(part for part in parts if part.folder.exists())
    return present, tuple(part for part in parts if part not in present)


def find_hardware(precision: Precision, peak_tflops: float) -> Hardware:
    """This machine's GPU, or an H100 where there is none; ``peak_tflops``, unless 0, goes before any datasheet."""
    import torch

    if not torch.cuda.is_available():
        return Hardware(
            name=f"{H100_SXM.name} (assumed, there is no GPU here)",
            peak_tflops=peak_tflops or H100_SXM.peak_tflops(precision),
            memory_bytes=H100_SXM.memory_gib * GIB,
        )
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    device = find_device(properties.name)
    return Hardware(
        name=properties.name,
        peak_tflops=peak_tflops or (device.peak_tflops(precision) if device else None),
        memory_bytes=properties.total_memory,
    )


def data_lines(data: FoundData, samples: int) -> Iterator[str]:
    """What a run of ``samples`` sequences makes of the data."""
    if data.absent:
        yield f"data        sequences are taken to have {data.seq_length:,} tokens"
    else:
        yield from _use_lines(data.folders, samples)
    for part in (*data.absent, *data.absent_held_out):
        yield f"            {part.folder} is not on this machine, and was not checked"


def _use_lines(folders: Sequence[DataFolder], samples: int) -> Iterator[str]:
    """How often each folder is read, and how many pauses that gives."""
    all_weights = sum(folder.weight or 0 for folder in folders)
    all_samples = sum(folder.num_samples for folder in folders)
    pauses, heading = 0.0, "data"
    for folder in folders:
        share = folder.weight / all_weights if folder.weight is not None else folder.num_samples / all_samples
        fraction = folder.manifest.pauses / folder.manifest.tokens
        pauses += share * samples * folder.seq_length * fraction
        yield (
            f"{heading:<12}{folder.path}: {folder.num_samples:,} sequences of {folder.seq_length:,} tokens,"
            f" {fraction:.2%} of them pauses; {share * samples / folder.num_samples:.2f} epochs"
        )
        heading = ""
    yield f"            about {pauses:,.0f} tokens of the run are pauses, which cost what other tokens do"
