"""Configuration of ``pause-megatron pretrain``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pause_megatron.config.blend import BlendComponent, parse_blend
from pause_megatron.config.checks import require_at_least, require_positive
from pause_megatron.config.megatron_names import MEGATRON_ALIASES, MEGATRON_CONVERTED, ConvertedFlag
from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.config.parallel import DeviceChoice, ParallelConfig
from pause_megatron.config.training import (
    CheckpointConfig,
    FaultsConfig,
    LoggingConfig,
    OptimizerConfig,
    TrainingConfig,
)
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a GPT on datasets of 'pause-megatron preprocess'. Start several ranks with a launcher, such as torchrun.

    Rerun the same command to resume an interrupted run from its newest complete checkpoint.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "data and output", "processes": "processes and dry run"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = MODEL_PRESETS
    BLENDS: ClassVar[tuple[str, ...]] = ("data", "validation_data")
    """Settings that hold folders and weights."""
    ALIASES: ClassVar[dict[str, str]] = MEGATRON_ALIASES
    CONVERTED: ClassVar[dict[str, ConvertedFlag]] = MEGATRON_CONVERTED

    data: tuple[str, ...]
    """Training data: one or more folders of 'pause-megatron preprocess', optionally with a weight before each, for
    example 0.7 DIR_A 0.3 DIR_B; without weights an epoch reads all of every folder."""
    output: Path
    """Run folder: checkpoints, metrics.jsonl and run.json."""
    tokenizer: Path
    """Tokenizer folder or SentencePiece .model; must be the tokenizer of the datasets."""
    deepspeed: Path
    """DeepSpeed JSON file: ZeRO stage, precision, offload (see ds_configs/)."""
    model_name: str | None = None
    """Name of the model in results and reports, which its runs with other seeds share (default: that of the run
    folder)."""
    initial_checkpoint: Path | None = None
    """Checkpoint to take the initial weights from (not the optimizer state), of pause-megatron convert-from-hf or of
    another run of the same model. Ignored when the run resumes from a checkpoint of its own."""
    validation_data: tuple[str, ...] = ()
    """Held-out datasets, in the syntax of --data. Loss and perplexity of real tokens are reported for each dataset, and
    with weights also for the weighted mean."""
    data_cache: Path | None = None
    """Folder for the index of document datasets, on a shared disk or one on each node (default: OUTPUT/data-index)."""
    verify_data: bool = False
    """Compare all token ids of the data with the hashes in dataset.json before the first step. Each node reads all
    files once. The indices are always compared, and the range of the ids in every batch."""
    processes: int = 1
    """Ranks to start on this machine; must be 1 under torchrun, srun or mpirun."""
    device: DeviceChoice = "auto"
    """Device of each rank; auto: its own GPU. Ranks of --processes share no GPU: if there are too few, all use the CPU.
    PAUSE_MEGATRON_DEVICE replaces auto."""
    dry_run: bool = False
    """Print the plan of the run with its memory and time, and exit; nothing is allocated."""
    json: bool = False
    """Print the plan of a dry run as JSON; memory and disk in bytes."""
    num_gpus: tuple[int, ...] = ()
    """World sizes to plan for in a dry run, for example 8 16 64 (default: the current one)."""
    assumed_mfu: float = 0.4
    """Utilisation of the devices in the plan of a dry run, as a fraction of their peak."""
    vocab_size: int = 32_256
    """Vocabulary to plan for in a dry run if --tokenizer is not on this machine; README.md's tokenizer has 32256."""
    assumed_gpu_mtbf: float = 50_000.0
    """Hours between failures of one GPU in the plan of a dry run. The default is about what 16,384 H100s had in the
    pretraining of Llama 3 (arXiv 2407.21783)."""
    assumed_save_seconds: float = 0.0
    """Seconds that a save holds up the run, in the plan of a dry run (0: its bytes at 2 GB/s)."""
    assumed_restart_seconds: float = 600.0
    """Seconds from a failure to the first step after it, in the plan of a dry run."""
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
        parse_blend("--validation-data", self.validation_data)  # reports mistakes before anything is loaded
        require_at_least(1, processes=self.processes, num_gpus=min(self.num_gpus, default=1))
        if self.json and not self.dry_run:
            raise UserError("--json: requires --dry-run; add it, or remove --json")
        require_at_least(1, vocab_size=self.vocab_size)
        require_positive(assumed_gpu_mtbf=self.assumed_gpu_mtbf)
        require_at_least(0, assumed_save_seconds=self.assumed_save_seconds)
        require_at_least(0, assumed_restart_seconds=self.assumed_restart_seconds)
        if not 0 < self.assumed_mfu <= 1:
            raise UserError(f"--assumed-mfu {self.assumed_mfu}: must be above 0 and at most 1, such as 0.4 for 40 %")

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
