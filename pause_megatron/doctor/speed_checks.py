"""Measurement of a training step: tokens per second, MFU, and memory against the plan."""

from statistics import median
from typing import Any

from pause_megatron.config.deepspeed import read_deepspeed_file
from pause_megatron.config.model import MODEL_PRESETS
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.costs.plan import PlannedRun, plan_scale
from pause_megatron.doctor.check import Figures, Place
from pause_megatron.doctor.small_runs import REFERENCE, records, run_config, train
from pause_megatron.doctor.step_checks import LONG, LONG_SEQ_LENGTH
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer

_WARM_UP = 3
_STEPS = 8
_MICRO_BATCH_SIZE = 8
_MICROBATCHES = 2
_LARGEST_OF_PLAN = 1.15
_LOWEST_MFU = 0.4


def measure(place: Place) -> Figures:
    """Train ``place.preset`` in bf16 on one GPU; on a CPU report the rate of the reference."""
    if not place.gpus:
        rate = median(record.tokens_per_second for record in records(run_config(place, REFERENCE))[1:])
        return {"found": f"{rate:,.0f} tokens/s in fp32 (MFU and memory need a GPU)", "tokens_per_second": rate}
    sizes: dict[str, Any] = {"max_position_embeddings": LONG_SEQ_LENGTH, **MODEL_PRESETS[place.preset]}
    batch: dict[str, Any] = {
        "micro_batch_size": _MICRO_BATCH_SIZE,
        "global_batch_size": _MICRO_BATCH_SIZE * _MICROBATCHES,
    }
    data = (str(place.folder / LONG),)
    config = run_config(place, "speed", precision="bf16", data=data, train_iters=_STEPS, **batch, **sizes)
    train([config])
    measured = records(config)[_WARM_UP:]
    rate = median(record.tokens_per_second for record in measured)
    mfus = [record.mfu for record in measured if record.mfu is not None]
    memory, plan = max(record.memory_bytes for record in measured), _planned_bytes(config)
    figures: Figures = {"tokens_per_second": rate, "memory_bytes": memory, "planned_bytes": plan}
    found = f"{place.preset} in bf16: {rate:,.0f} tokens/s, {memory / 2**30:.1f} GiB of {plan / 2**30:.1f} planned"
    if mfus:
        figures["mfu"] = median(mfus)
        found += f", MFU {median(mfus):.0%}{'' if median(mfus) >= _LOWEST_MFU else ', which is low'}"
    if memory > _LARGEST_OF_PLAN * plan:
        raise UserError(
            f"memory: {memory / 2**30:.1f} GiB at the peak, but {plan / 2**30:.1f} planned; leave more memory free than"
            " --dry-run says, and report it with doctor.json"
        )
    return {"found": found, **figures}


def _planned_bytes(config: PretrainConfig) -> int:
    plan = plan_scale(
        PlannedRun(
            model=config.model,
            parallel=config.parallel,
            training=config.training,
            deepspeed=read_deepspeed_file(config.deepspeed),
            vocab_size=PauseTokenizer.load(config.tokenizer).vocab_size,
            seq_length=LONG_SEQ_LENGTH,
            samples=config.training.global_batch_size,
        ),
        1,
    )
    assert not isinstance(plan, UserError), plan
    return plan.worst.total
