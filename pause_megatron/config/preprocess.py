"""What ``tools/preprocess_c4.py`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """C4 text to Megatron indexed datasets, with the pauses already in. Run again after an interruption to resume."""

    input: tuple[str, ...]
    """C4 files (.json.gz, .jsonl), as paths or quoted globs; each becomes one shard of the dataset."""
    tokenizer: Path
    """Tokenizer folder, or SentencePiece .model file, with a <pause> token."""
    output: Path
    """Folder of the dataset."""
    pauses: Literal["sequence", "none"] = "sequence"
    """Where pauses go: at random positions of every sequence (the paper's way), or nowhere (the standard model)."""
    pause_rate: float = 0.1
    """Pauses inserted per real token of a sequence, before it is trimmed back to its length."""
    seq_length: int = 2048
    """Length of every stored sequence, in tokens."""
    seed: int = 1234
    """Seed of the pause positions."""
    trimmed: Literal["carry", "drop"] = "carry"
    """Real tokens trimmed off a sequence: carried to the next one (no text is lost), or dropped."""
    engine: Literal["process", "serial", "mpi"] = "process"
    """What runs the shards: a pool of processes, this process, or the ranks that mpirun or srun started."""
    workers: int = 0
    """Processes of the engine 'process'; 0: one for each CPU core."""

    def __post_init__(self) -> None:
        if not self.input:
            raise UserError("--input: give at least one file or glob")
        require_at_least(2, seq_length=self.seq_length)
        require_at_least(0, seed=self.seed, workers=self.workers)
        if self.pauses == "sequence" and not 1 / self.seq_length <= self.pause_rate < 1:
            raise UserError(
                f"--pause-rate {self.pause_rate}: must be below 1 and give a sequence of {self.seq_length} tokens at "
                "least one pause; for data without pauses use --pauses none"
            )
