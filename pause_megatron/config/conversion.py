"""Configuration of ``tools/convert_to_hf.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConvertToHfConfig:
    """Convert a checkpoint of `pause-megatron pretrain` to a Hugging Face folder, verified by its logits."""

    checkpoint: Path
    """Run folder (its newest checkpoint), or one checkpoint's folder."""
    output: Path
    """Hugging Face folder to write; must not exist."""
    tokenizer: Path | None = None
    """Tokenizer folder or .model; by default the one the run was trained with."""
    tolerance: float = 1e-4
    """Largest absolute logit difference (fp32) for the export to be accepted."""
    proof_sequences: int = 4
    """Sequences the logits are compared on, at least 2; every second one has pauses in it."""

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise UserError(f"--tolerance {self.tolerance}: must be positive")
        require_at_least(1, proof_sequences=self.proof_sequences)
