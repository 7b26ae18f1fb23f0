"""Configuration of ``pause-megatron pretrain``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.training import OptimizerConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a GPT on datasets of tools/preprocess_c4.py. Run it under a launcher for several processes.

    The same command continues an interrupted run from its newest checkpoint.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = MODEL_PRESETS

    data: Path
    """Training dataset: a folder written by tools/preprocess_c4.py."""
    output: Path
    """Run folder: checkpoints, metrics.jsonl and run.json."""
    tokenizer: Path
    """Tokenizer folder or SentencePiece .model; must be the one the datasets were written with."""
    deepspeed: Path
    """DeepSpeed JSON file: ZeRO stage, precision, offload (see ds_configs/)."""
    validation_data: tuple[Path, ...] = ()
    """Held-out datasets; loss and perplexity are reported for each, on real tokens only."""
    processes: int = 1
    """Processes to start on this machine; leave it at 1 under torchrun, srun or mpirun."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig
