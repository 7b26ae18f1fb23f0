"""``pause-megatron pretrain --dry-run``: prints the layout, memory and time of a run without starting it.

The machine needs neither the GPUs nor the data, for example a login node. Data that is on the machine is checked as in
a run; missing folders are reported.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pause_megatron import log
from pause_megatron.config.blend import BlendComponent
from pause_megatron.config.deepspeed import Precision, read_deepspeed_file
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.costs.checkpoint_plan import Faults
from pause_megatron.costs.checkpoint_text import checkpoint_lines
from pause_megatron.costs.devices import H100_SXM, find_device
from pause_megatron.costs.plan import PlannedRun, ScalePlan, plan_scale
from pause_megatron.costs.plan_json import plan_mapping
from pause_megatron.costs.plan_text import GIB, Hardware, plan_lines
from pause_megatron.data.data_folders import DataFolder, check_training_folders, check_validation_folders
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.schedule import BatchSchedule


@dataclass(frozen=True, kw_only=True)
class FoundData:
    """Folders of ``--data`` on this machine, checked, and the missing ones of ``--data`` and ``--validation-data``."""

    folders: tuple[DataFolder, ...]
    absent: tuple[BlendComponent, ...]
    absent_held_out: tuple[BlendComponent, ...]
    seq_length: int
    """Tokens of a sequence; from the flags if all folders are missing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would be, on each number of GPUs."""

    config: PretrainConfig
    run: PlannedRun
    scales: dict[int, ScalePlan | UserError]
    """Number of GPUs to its plan, or to the reason why the run is impossible on them."""
    hardware: Hardware
    data: FoundData
    tokenizer_found: bool

    @property
    def faults(self) -> Faults:
        """Assumptions about failures."""
        return Faults(
            mtbf_hours=self.config.assumed_gpu_mtbf,
            save_seconds=self.config.assumed_save_seconds,
            restart_seconds=self.config.assumed_restart_seconds,
        )

    def refuse_if_impossible(self) -> None:
        """Raise the first :class:`UserError` if the run is impossible on each number of GPUs."""
        refused = [scale for scale in self.scales.values() if isinstance(scale, UserError)]
        if len(refused) == len(self.scales):
            raise refused[0]


def print_plan(config: PretrainConfig, *, num_processes: int) -> None:
    """Check the files of ``config`` and print its plan on standard output; rank 0 only.

    ``num_processes`` is the world size to plan for without ``--num-gpus``. Raises :class:`UserError` like the run
    itself; if the layout suits none of the world sizes, after the plan, which gives the reason for each.
    """
    if log.global_rank() != 0:
        return
    plan = make_plan(config, num_processes=num_processes)
    if config.json:
        print(json.dumps(as_mapping(plan), indent=2))
    else:
        print("\n".join([f"{config.output}: dry run, nothing is started", *as_lines(plan)]))
    plan.refuse_if_impossible()


def make_plan(config: PretrainConfig, *, num_processes: int) -> Plan:
    """Check the files of ``config`` that are on this machine, and plan it. Raises :class:`UserError` like a run."""
    tokenizer = PauseTokenizer.load(config.tokenizer) if config.tokenizer.exists() else None
    deepspeed = read_deepspeed_file(config.deepspeed)
    data = find_data(config, tokenizer)
    run = PlannedRun(
        model=config.model,
        parallel=config.parallel,
        training=config.training,
        deepspeed=deepspeed,
        vocab_size=tokenizer.vocab_size if tokenizer else config.vocab_size,
        seq_length=data.seq_length,
        samples=BatchSchedule(config.training).consumed_samples(config.training.train_iters),
    )
    return Plan(
        config=config,
        run=run,
        scales={number: plan_scale(run, number) for number in config.num_gpus or (num_processes,)},
        hardware=find_hardware(deepspeed.precision, config.logging.peak_tflops),
        data=data,
        tokenizer_found=tokenizer is not None,
    )


def as_mapping(plan: Plan) -> dict[str, Any]:
    """Return ``plan`` for JSON; memory and disk are bytes."""
    config = plan.config
    numbers = plan_mapping(plan.run, plan.scales, plan.hardware, config.checkpoint, plan.faults, mfu=config.assumed_mfu)
    absent = [str(part.folder) for part in (*plan.data.absent, *plan.data.absent_held_out)]
    return {**numbers, "tokenizer_found": plan.tokenizer_found, "absent_data": absent}


def as_lines(plan: Plan) -> list[str]:
    """Return ``plan`` for a terminal."""
    lines = [*cost_lines(plan), "", *_data_lines(plan.data, plan.run.samples)]
    if not plan.tokenizer_found:
        absent, assumed = plan.config.tokenizer, f"{plan.run.vocab_size:,} tokens assumed"
        lines += [
            f"            {absent} is not on this machine; {assumed},",
            "            and no data compared with them",
        ]
    return lines


def cost_lines(plan: Plan) -> list[str]:
    """Return the part of ``plan`` that does not depend on files."""
    mfu, run, scales, hardware = plan.config.assumed_mfu, plan.run, plan.scales, plan.hardware
    checkpoints = checkpoint_lines(run, scales, hardware, plan.config.checkpoint, plan.faults, mfu=mfu)
    return [*plan_lines(run, scales, hardware, mfu=mfu), "", *checkpoints]


def find_data(config: PretrainConfig, tokenizer: PauseTokenizer | None) -> FoundData:
    """Check the training and held-out data on this machine. Raises :class:`UserError` as a run would.

    Without a tokenizer no data is read, because it cannot be compared with one.
    """
    model = config.model
    if tokenizer is None:
        seq_length = config.training.seq_length or model.max_position_embeddings
        _, absent = _divide(config.data_parts)
        _, absent_held_out = _divide(config.validation_parts)
        return FoundData(folders=(), absent=absent, absent_held_out=absent_held_out, seq_length=seq_length)
    limits: Any = {"max_position_embeddings": model.max_position_embeddings, "shares_positions": model.shares_positions}
    present, absent = _divide(config.data_parts)
    folders: tuple[DataFolder, ...] = ()
    seq_length = config.training.seq_length or model.max_position_embeddings
    if present:
        folders = check_training_folders(present, tokenizer, seq_length=config.training.seq_length, **limits)
        seq_length = folders[0].seq_length
    held_out, absent_held_out = _divide(config.validation_parts)
    check_validation_folders(held_out, tokenizer, seq_length=seq_length, **limits)
    return FoundData(folders=folders, absent=absent, absent_held_out=absent_held_out, seq_length=seq_length)


def _divide(parts: Sequence[BlendComponent]) -> tuple[tuple[BlendComponent, ...], tuple[BlendComponent, ...]]:
    """Return the parts with folders on this machine, and the others."""
    present = tuple(part for part in parts if part.folder.exists())
    return present, tuple(part for part in parts if part not in present)


def find_hardware(precision: Precision, peak_tflops: float) -> Hardware:
    """This machine's GPU, or an H100 if it has none; ``peak_tflops`` (unless 0) overrides the datasheet."""
    import torch

    from pause_megatron.parallel.visible_gpus import find_visible_gpus

    if find_visible_gpus().count == 0:
        return Hardware(
            name=f"{H100_SXM.name} (assumed, no GPU on this machine)",
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


def _data_lines(data: FoundData, samples: int) -> Iterator[str]:
    if not data.folders or data.absent:
        yield f"data        assumed: sequences of {data.seq_length:,} tokens"
    else:
        yield from _use_lines(data.folders, samples)
    for part in (*data.absent, *data.absent_held_out):
        yield f"            {part.folder} is not on this machine; not checked"


def _use_lines(folders: Sequence[DataFolder], samples: int) -> Iterator[str]:
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
    yield f"            about {pauses:,.0f} tokens of the run are pauses; they cost as much as other tokens"
