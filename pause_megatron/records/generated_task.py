"""Record of a generated task: ``generated_task.json`` next to its ``SPLIT.jsonl`` files."""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class GeneratedTaskRecord:
    """``generated_task.json``: everything that decides the bytes of the other files."""

    FORMAT: ClassVar[str] = "pause_megatron/generated-task/1"
    FILE: ClassVar[str] = "generated_task.json"
    PRODUCER: ClassVar[str] = "pause-megatron generate-task"

    format: str = FORMAT
    task: str
    parameters: dict[str, Any]
    """All parameters of the task by name, such as {"bits": 16, ...}."""
    num_hints: int
    """Hints of each training record, the labels at its pauses; 0 without hints."""
    seed: int
    train: int
    """Training records."""
    validation: int
    test: int
