"""Settings of ``pause-megatron slurm-scripts``."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SlurmScriptsConfig:
    """Write the batch scripts for Slurm to a folder, where you edit env.sh and submit them (docs/cluster.md). They run
    the Python that wrote them."""

    output: Path = Path("slurm")
    """Folder to write; must not exist."""
