"""A plan as a mapping for JSON. Memory and disk are bytes, times are seconds unless a key names another unit."""

from dataclasses import asdict
from typing import Any

from pause_megatron.config.training import CheckpointConfig
from pause_megatron.costs.checkpoint_plan import Faults, best_save_interval, disk_space, save_seconds
from pause_megatron.costs.plan import USABLE, PlannedRun, ScalePlan, advice
from pause_megatron.costs.plan_text import Hardware
from pause_megatron.errors import UserError


def plan_mapping(
    run: PlannedRun,
    scales: dict[int, ScalePlan | UserError],
    hardware: Hardware,
    checkpoint: CheckpointConfig,
    faults: Faults,
    *,
    mfu: float,
) -> dict[str, Any]:
    """Return the plan of ``run``; ``scales`` maps numbers of devices to their plans or errors."""
    disk = disk_space(run, checkpoint)
    return {
        "format": "pause_megatron/plan/1",
        "parameters": run.model.num_parameters(run.vocab_size),
        "vocab_size": run.vocab_size,
        "seq_length": run.seq_length,
        "train_iters": run.training.train_iters,
        "tokens": run.tokens,
        "flops": run.flops,
        "hardware": asdict(hardware),
        "usable_memory_share": USABLE,
        "assumed_mfu": mfu,
        "disk": {**asdict(disk), "checkpoints": disk.checkpoints},
        "faults": {**asdict(faults), "save_seconds": save_seconds(run, faults)},
        "scales": [
            {"num_gpus": number, "error": str(scale)}
            if isinstance(scale, UserError)
            else {"num_gpus": number, **_scale(scale, hardware, checkpoint, faults, mfu)}
            for number, scale in scales.items()
        ],
    }


def _scale(
    scale: ScalePlan, hardware: Hardware, checkpoint: CheckpointConfig, faults: Faults, mfu: float
) -> dict[str, Any]:
    layout, memory = scale.layout, scale.worst
    found: dict[str, Any] = {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vp,
        "data_parallel_size": layout.dp,
        "num_microbatches": scale.num_microbatches,
        "pipeline_bubble": scale.waiting,
        "memory": {**asdict(memory), "total": memory.total},
        "fits": scale.fits(hardware.memory_bytes) if hardware.memory_bytes else None,
        "advice": advice(scale),
    }
    if hardware.peak_tflops:
        seconds = scale.seconds(peak_tflops=hardware.peak_tflops, mfu=mfu)
        best = best_save_interval(scale, checkpoint, faults, peak_tflops=hardware.peak_tflops, mfu=mfu)
        found |= {"seconds": seconds, "tokens_per_second": scale.run.tokens / seconds, "save_interval": asdict(best)}
    return found
