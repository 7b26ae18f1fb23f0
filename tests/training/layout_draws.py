"""Random training runs for ``make fuzz-layouts``: a model, data, and the layouts that train it one after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pause_megatron.atomic import write_json
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import build
from tests.chain import write_dataset, write_text_and_tokenizer

DS_CONFIGS = Path(__file__).parents[2] / "ds_configs"
DEEPSPEED_FILES = tuple(sorted(path.stem for path in DS_CONFIGS.glob("*.json")))
SEQ_LENGTH = 32
DATASETS = {
    "none": "none",
    "sequence10": "sequence,pause-rate=0.1",
    "sequence90": "sequence,pause-rate=0.9,gaps=repeat",
    "drop50": "sequence,pause-rate=0.5,trimmed=drop",
    "every1": "every,pauses-per-token=1",
    "every15": "every,pauses-per-token=15",
    "document10": "document,pause-rate=0.1",
    "document70": "document,pause-rate=0.7",
}
"""Name of a dataset, and how preprocessing writes it."""
HELD_OUT = "held-out"
BLOCKS: tuple[dict[str, Any], ...] = (
    *({"architecture": "gpt2"},) * 3,
    {"architecture": "llama"},
    {"architecture": "llama", "add_qkv_bias": True},
    {"architecture": "llama", "qk_layernorm": True, "kv_channels": 12},
    {"architecture": "llama", "use_rope_scaling": True, "rope_original_max_position_embeddings": 16},
)
PRECISIONS = ("fp32", "bf16", "bf16, gradients in fp32", "fp16")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A layout, and the step until which it trains."""

    last_step: int
    world_size: int = 1
    parallel: dict[str, Any] = field(default_factory=dict)
    """Settings of :class:`~pause_megatron.config.parallel.ParallelConfig`."""
    micro_batch_size: int = 1
    deepspeed: str = "zero1_fp32"
    """File of ds_configs/ without ``.json``; the run's precision replaces that of the file."""
    bucket: int = 0
    """``reduce_bucket_size`` in elements (0: that of the file)."""
    persistent: int = -1
    """``stage3_param_persistence_threshold`` in elements (-1: that of the file)."""
    async_save: bool = False

    def __str__(self) -> str:
        letters = {"tensor": "TP", "pipeline": "PP", "virtual": "VP"}
        sizes = [
            f"{letters[name.partition('_')[0]]} {value}" for name, value in self.parallel.items() if "size" in name
        ]
        others = [f"{name} {value}" for name, value in self.parallel.items() if "size" not in name]
        place = " · ".join([*sizes, *others, f"micro batch {self.micro_batch_size}", self.deepspeed])
        return f"{place} on {self.world_size} to step {self.last_step}"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One run: its segments must give the losses and weights that one process gives without an interruption."""

    precision: str = "fp32"
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of :class:`~pause_megatron.config.model.ModelConfig`."""
    data: tuple[str, ...] = ("sequence10",)
    """Names of :data:`DATASETS`, with weights in between for a blend."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of training and optimizer."""
    segments: tuple[Segment, ...]

    def __str__(self) -> str:
        model = ", ".join(f"{name} {value}" for name, value in self.model.items())
        stages = ", then ".join(map(str, self.segments))
        return f"{stages}; {self.precision}; {model}; {' '.join(self.data)}; {self.training}"


def write_datasets(folder: Path) -> None:
    """Write a tokenizer, all :data:`DATASETS` and the held-out dataset into ``folder``."""
    write_text_and_tokenizer(folder)
    also = tuple(f"{description}:{folder / name}" for name, description in DATASETS.items() if name != "none")
    write_dataset(folder, "none", pauses="none", also=also, seq_length=SEQ_LENGTH)
    write_dataset(folder, HELD_OUT, "validation", seq_length=SEQ_LENGTH)


def draw_run(seed: int, number: int) -> Draw:
    """Return draw ``number`` of ``seed``; each is independent of the others."""
    random = Random(f"{seed} {number}")
    steps = random.randint(3, 6)
    stops = sorted(random.sample(range(1, steps), random.choices((0, 1, 2), (4, 5, 2))[0]))
    model = _draw_model(random)
    data = _draw_data(random)
    training = _draw_training(random, steps)
    if any(part.startswith("document") for part in data) and len(data) == 1:
        training["seq_length"] = random.choice((31, 32, 48))
    return Draw(
        precision=random.choices(PRECISIONS, (12, 2, 2, 2))[0],
        model=model | {"max_position_embeddings": 48},
        data=data,
        training=training | {"schedule": "constant" if stops else "cosine", "warmup_fraction": 0.0 if stops else 0.3},
        segments=tuple(_draw_segment(random, last_step) for last_step in (*stops, steps)),
    )


def _draw_model(random: Random) -> dict[str, Any]:
    heads = random.choice((2, 4, 4, 8, 8))
    block = random.choice(BLOCKS)
    return {
        **block,
        "num_layers": random.choice((2, 3, 4, 4, 8, 8, 12)),
        "hidden_size": 8 * heads,
        "num_attention_heads": heads,
        "num_query_groups": random.choice((0, 0, 0, 0, 1, heads // 2)),
        "ffn_hidden_size": random.choice((0, 0, 0, 36, 50)),
        "untie_embeddings_and_output_weights": random.random() < 0.5,
        "gelu": random.choice(("exact", "tanh")),
    }


def _draw_data(random: Random) -> tuple[str, ...]:
    first, second = random.sample(sorted(DATASETS), 2)
    return random.choice(((first,), (first,), (first, second), ("0.3", first, "0.7", second)))


def _draw_training(random: Random, steps: int) -> dict[str, Any]:
    batch = random.choice((4, 8, 12, 12, 16))
    return {
        "seed": random.randrange(1000),
        "global_batch_size": batch,
        "rampup_batch_size": random.choice(((), (), (), (), (4, batch - 4, 8))) if batch > 4 else (),
        "clip_grad": random.choice((0.0, 0.1, 1.0)),
        "validation_interval": random.choice((2, 100)),
        "validation_sequences": random.choice((5, 9, 16)),
        "train_iters": steps,
    }


def _draw_segment(random: Random, last_step: int) -> Segment:
    world_size = random.choice((1, 2, 2, 2, 3, 3, 4, 4, 4))
    tp = random.choice([size for size in (1, 2, 4) if world_size % size == 0])
    pp = random.choice([size for size in (1, 2, 3, 4) if world_size % (tp * size) == 0])
    parallel: dict[str, Any] = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp}
    if random.random() < (0.5 if pp > 1 else 0.03):
        parallel["virtual_pipeline_model_parallel_size"] = random.choice((2, 2, 2, 4))
    if random.random() < (0.6 if tp > 1 else 0.1):
        parallel["sequence_parallel"] = True
    if random.random() < 0.4:
        parallel["recompute_granularity"] = random.choice(("selective", "full"))
        parallel["recompute_num_layers"] = random.choice((1, 1, 2))
    # Pipeline stages exclude ZeRO-2 and ZeRO-3; draw these rarely there.
    files = (
        DEEPSPEED_FILES if pp == 1 or random.random() < 0.1 else [name for name in DEEPSPEED_FILES if name < "zero2"]
    )
    return Segment(
        last_step=last_step,
        world_size=world_size,
        parallel=parallel,
        micro_batch_size=random.choice((1, 1, 1, 2, 2, 4)),
        deepspeed=random.choice(files),
        bucket=random.choice((0, 3_000, 20_000)),
        persistent=random.choice((-1, 0, 500)),
        async_save=random.random() < 0.2,
    )


def reference_segment(draw: Draw) -> Segment:
    """One process without an interruption, which computes the whole batch at once if its size never changes."""
    sizes = {draw.training["global_batch_size"], *draw.training["rampup_batch_size"][:1]}
    return Segment(last_step=draw.segments[-1].last_step, micro_batch_size=min(sizes), deepspeed="zero0_fp32")


def segment_config(draw: Draw, segment: Segment, *, data: Path, run: Path) -> PretrainConfig:
    """Return the configuration of ``segment`` in the run folder ``run``; writes its DeepSpeed file beside that.

    Raises ``UserError`` if the configuration is refused by itself.
    """
    deepspeed = run.with_name(f"{run.name}-{segment.last_step}.json")
    write_json(deepspeed, _deepspeed_values(draw, segment))
    names = [part if part.replace(".", "").isdecimal() else str(data / part) for part in draw.data]
    settings = {
        "data": tuple(names),
        "validation_data": (str(data / HELD_OUT),),
        "tokenizer": data / "tokenizer",
        "data_cache": data / "index",
        "output": run,
        "deepspeed": deepspeed,
        "device": "cpu",
        "learning_rate": 1e-3,
        "adam_eps": 1e-6,  # otherwise Adam turns rounding errors of zero gradients into steps of full size
        "log_interval": 1,
        **draw.model,
        **draw.training,
        **segment.parallel,
        "train_iters": segment.last_step,
        "micro_batch_size": segment.micro_batch_size,
        "async_save": segment.async_save,
    }
    return build(PretrainConfig, settings)


def _deepspeed_values(draw: Draw, segment: Segment) -> dict[str, Any]:
    values = json.loads((DS_CONFIGS / f"{segment.deepspeed}.json").read_bytes())
    for key in ("bf16", "fp16", "data_types"):
        values.pop(key, None)
    if draw.precision == "fp16":
        values["fp16"] = json.loads((DS_CONFIGS / "zero1_fp16.json").read_bytes())["fp16"]
        # Gradients of 4 ranks are summed before they are averaged, so they overflow at a quarter of the usual scale:
        # the layout would skip a step that one process makes.
        values["fp16"]["initial_scale_power"] = 12
    elif draw.precision != "fp32":
        values["bf16"] = {"enabled": True}
        if "fp32" in draw.precision:
            values["data_types"] = {"grad_accum_dtype": "fp32"}
    if segment.bucket:
        values["zero_optimization"]["reduce_bucket_size"] = segment.bucket
    if segment.persistent >= 0 and values["zero_optimization"]["stage"] == 3:
        values["zero_optimization"]["stage3_param_persistence_threshold"] = segment.persistent
    return values
