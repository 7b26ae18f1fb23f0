"""Configuration of ``pause-megatron pretrain``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pause_megatron.config.blend import BlendComponent, parse_blend
from pause_megatron.config.checkpoint import CheckpointConfig
from pause_megatron.config.checks import require_at_least
from pause_megatron.config.faults import FaultsConfig
from pause_megatron.config.logging import LoggingConfig
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.training import OptimizerConfig, TrainingConfig
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a GPT on datasets of tools/preprocess_c4.py. Run it under a launcher for several processes.

    The same command continues an interrupted run from its newest checkpoint.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "data and output", "processes": "processes and dry run"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = MODEL_PRESETS

    data: tuple[str, ...]
    """Training data: a folder written by tools/preprocess_c4.py, or several with their weights, as in
    0.7 DIR_A 0.3 DIR_B; without weights all are taken whole."""
    output: Path
    """Run folder: checkpoints, metrics.jsonl and run.json."""
    tokenizer: Path
    """Tokenizer folder or SentencePiece .model; must be the one the datasets were written with."""
    deepspeed: Path
    """DeepSpeed JSON file: ZeRO stage, precision, offload (see ds_configs/)."""
    initial_checkpoint: Path | None = None
    """Checkpoint whose weights the run begins with, of tools/convert_from_hf.py or of another run of the same model;
    its optimizer state is left there. Once the run has a checkpoint of its own, it goes on from that."""
    validation_data: tuple[str, ...] = ()
    """Held-out datasets, written as --data; loss and perplexity are reported for each, on real tokens only, and with
    weights for their weighted mean too."""
    data_cache: Path | None = None
    """Folder for the index of document datasets, on a disk the processes share or on each node's own; None: a folder
    of the run's."""
    processes: int = 1
    """Processes to start on this machine; leave it at 1 under torchrun, srun or mpirun."""
    dry_run: bool = False
    """Print what would be trained, its memory and its time, and leave; nothing is allocated."""
    num_gpus: tuple[int, ...] = ()
    """Numbers of processes a dry run plans for; none: as many as were started."""
    assumed_mfu: float = 0.4
    """Utilisation of the devices a dry run reckons with, as a fraction of their peak."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        if not self.data_parts:
            raise UserError("--data: give a dataset folder, or several as WEIGHT FOLDER WEIGHT FOLDER")
        parse_blend("--validation-data", self.validation_data)  # so that a mistake shows before anything is loaded
        require_at_least(1, processes=self.processes, num_gpus=min(self.num_gpus, default=1))
        if not 0 < self.assumed_mfu <= 1:
            raise UserError(f"--assumed-mfu {self.assumed_mfu}: must be above 0 and at most 1, as 0.4 for 40 %")

    @property
    def data_parts(self) -> tuple[BlendComponent, ...]:
        """The folders of ``--data``."""
        return parse_blend("--data", self.data)

    @property
    def validation_parts(self) -> tuple[BlendComponent, ...]:
        """The folders of ``--validation-data``."""
        return parse_blend("--validation-data", self.validation_data)

    @property
    def index_cache(self) -> Path:
        """Folder for the index of document datasets."""
        return self.data_cache or self.output / "data-index"
