"""Configuration of ``pause-megatron doctor``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pause_megatron.config.checks import require_at_least


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check that this machine trains, finetunes and generates correctly, on its GPUs or on its CPU.

    Prints one line for each check and ends with exit code 2 if one failed. Takes three to five minutes. Under a
    launcher with several processes, such as srun, only checks that they meet and that each has its own GPU.
    """

    output: Path = Path("doctor.json")
    """Record to write (JSON); please attach it to a report of an error. Overwrites an existing file."""
    gpus: int | None = None
    """GPUs to use, at most 4; 0: only the CPU (default: 1, 2 or 4, as many as the machine has)."""
    only: tuple[str, ...] = ()
    """Names of the checks to run; checks that they need are run too (default: all)."""
    preset: Literal["130m", "1b"] = "130m"
    """Model of the speed measurement on a GPU."""

    def __post_init__(self) -> None:
        require_at_least(0, gpus=self.gpus or 0)
