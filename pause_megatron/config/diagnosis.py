"""Configuration of ``pause-megatron diagnose``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.parallel import DeviceChoice
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.config.task_definitions import require_task
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """Measure what a model does at its pauses: attention, what each pause predicts, and answers with fewer pauses.

    For example: pause-megatron diagnose --model ft/parity --task parity --data tasks/parity --num-pauses-inf 0 8 16
    --output diagnosis.json. 'pause-megatron report --diagnoses diagnosis.json' draws the result.
    """

    model: Path
    """Hugging Face folder, finetuned or not."""
    task: str
    """Name of a task, for example gsm8k, or its definition as FILE.yaml; its evaluation split gives prompts and
    answers."""
    output: Path
    """Result file to create (JSON)."""
    include_path: Path | None = None
    """Folder with further task definitions, also in its subfolders (default: none)."""
    data: Path | None = None
    """Folder with test.jsonl or validation.jsonl of the task (default: the source that its definition names, such as
    the hub)."""
    pausing: InferencePausing = field(default_factory=InferencePausing)
    pretrain: Path | None = None
    """Run folder of the model's pretraining: follow the embedding of <pause> over its checkpoints (default: measure
    only the model's own)."""
    limit: int = 100
    """Number of prompts, from the first."""
    batch_size: int = 16
    """Prompts in a batch."""
    device: DeviceChoice = "auto"
    """Device; auto: the first GPU, or the CPU if the machine has none. PAUSE_MEGATRON_DEVICE replaces auto."""

    GROUPS: ClassVar[dict[str, str]] = {"model": "model and data", "limit": "measurement"}

    def __post_init__(self) -> None:
        require_task(self.task, self.include_path)
        require_at_least(1, limit=self.limit, batch_size=self.batch_size)
        if self.pausing.filler is not None:
            raise UserError(f"--filler {self.pausing.filler}: only <pause> is diagnosed; remove the flag")
        if self.pausing.pause_inputs == "repeat":
            raise UserError("--pause-inputs repeat: only <pause> is diagnosed; remove the flag")
