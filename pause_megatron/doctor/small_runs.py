"""Small pretraining runs for checks: the same model, data and batches on every device and under every layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.core import parallel_state

from pause_megatron.atomic import write_json
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import build
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.doctor.check import Figures, Place
from pause_megatron.errors import UserError
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.parallel.groups import destroy_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.parallel.process_device import choose_device
from pause_megatron.preprocess.run import preprocess
from pause_megatron.records.files import read_record_lines
from pause_megatron.records.pretraining import METRICS_FILE, METRICS_KINDS, TrainRecord
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from pause_megatron.training.inputs import check_inputs
from pause_megatron.training.pretrain import train_in_groups

REFERENCE = "cpu-step"
"""Name of the run that others are compared with."""
STEPS = 5
SEQ_LENGTH = 128
_VOCAB_SIZE = 512
SETTINGS: dict[str, Any] = {
    # Four layers can be divided into two stages with two chunks, and two heads over two ranks.
    "num_layers": 4,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "max_position_embeddings": SEQ_LENGTH,
    "train_iters": STEPS,
    "global_batch_size": 8,
    "micro_batch_size": 2,
    "learning_rate": 1e-3,
    "warmup_fraction": 0.0,
    "schedule": "constant",  # so that a resumed run with more steps has the same rates
    "log_interval": 1,
}
FP32_TOLERANCE = 1e-4
"""Largest difference of a loss in nats, and of a gradient norm relative to it, between two computations in fp32."""
BF16_TOLERANCE = 3e-2


def write_text_and_tokenizer(folder: Path) -> None:
    """Write ``folder/corpus`` and ``folder/tokenizer`` from text that comes with Python."""
    write_pydoc_corpus(folder / "corpus", train_shards=1)
    train_tokenizer(
        TokenizerConfig(input=(f"{folder}/corpus/*train*",), output=folder / "tokenizer", vocab_size=_VOCAB_SIZE)
    )


def write_dataset(folder: Path, name: str, *, split: str = "train", seq_length: int = SEQ_LENGTH) -> None:
    """Write the dataset ``folder/name`` with pauses."""
    settings = {"tokenizer": folder / "tokenizer", "output": folder / name, "engine": "serial"}
    preprocess(
        build(PreprocessConfig, {"input": (f"{folder}/corpus/*{split}*",), "seq_length": seq_length, **settings})
    )


def run_config(
    place: Place, name: str, *, zero_stage: int = 1, precision: str = "fp32", **settings: Any
) -> PretrainConfig:
    """Return the configuration of the run ``name`` in ``place.folder/runs``; ``settings`` override :data:`SETTINGS`."""
    deepspeed = place.folder / f"zero{zero_stage}_{precision}.json"
    enabled = {} if precision == "fp32" else {precision: {"enabled": True}}
    write_json(deepspeed, {**enabled, "zero_optimization": {"stage": zero_stage}})
    places = {"data": (str(place.folder / "data"),), "tokenizer": place.folder / "tokenizer", "deepspeed": deepspeed}
    values = {"output": place.folder / "runs" / name, **places, **SETTINGS, **settings}
    return build(PretrainConfig, values)


def train(configs: Sequence[PretrainConfig]) -> None:
    """Run ``configs`` one after the other on the ranks that call this together."""
    launch = detect_launch()
    is_tensor_parallel = any(config.parallel.tensor_model_parallel_size > 1 for config in configs)
    choose_device("auto", launch, tensor_parallel=is_tensor_parallel)
    try:
        for config in configs:
            train_in_groups(config, launch, check_inputs(config, world_size=launch.world_size))
            parallel_state.destroy_model_parallel()
    finally:
        destroy_process_groups()


def records(config: PretrainConfig) -> list[TrainRecord]:
    """Return the training records of a run."""
    lines = read_record_lines(config.output / METRICS_FILE, METRICS_KINDS)
    return [line for line in lines if isinstance(line, TrainRecord)]


def compare(
    place: Place, config: PretrainConfig, tolerance: float, *, reference: str = REFERENCE, first_step: int = 1
) -> Figures:
    """Compare losses and gradient norms of a run with those of ``reference``, from ``first_step`` on.

    Raises :class:`UserError` if a difference exceeds ``tolerance``.
    """
    expected = {record.iteration: record for record in records(run_config(place, reference))}
    found = {record.iteration: record for record in records(config) if record.iteration >= first_step}
    assert set(found) == {step for step in expected if step >= first_step}, (sorted(found), sorted(expected))
    losses, norms = [], []
    for step, record in found.items():
        other = expected[step]
        losses.append(abs(record.last_loss - other.last_loss))
        norms.append(abs((record.grad_norm or 0) - (other.grad_norm or 0)) / (other.grad_norm or 1))
    for what, difference in (("losses", max(losses)), ("gradient norms", max(norms))):
        if not difference <= tolerance:  # also if it is not a number
            raise UserError(
                f"{config.output.name}: {what} differ from those of {reference} by up to {difference:.1e}, more than"
                f" {tolerance:.0e}; report it with doctor.json, and do not train on this machine"
            )
    return {"loss_difference": max(losses), "norm_difference": max(norms)}
