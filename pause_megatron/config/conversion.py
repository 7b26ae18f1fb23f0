"""Configuration of ``tools/convert_to_hf.py`` and ``tools/convert_from_hf.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pause_megatron.config.checks import require_at_least
from pause_megatron.config.deepspeed import Precision
from pause_megatron.errors import UserError

ProofMethod = Literal["auto", "whole", "layers"]


@dataclass(frozen=True, kw_only=True)
class ConvertToHfConfig:
    """Convert a checkpoint of `pause-megatron pretrain` to a Hugging Face folder, verified by its logits."""

    checkpoint: Path
    """Run folder (its newest checkpoint), or one checkpoint's folder."""
    output: Path
    """Hugging Face folder to write; must not exist."""
    tokenizer: Path | None = None
    """Tokenizer folder or .model; by default the one the run was trained with."""
    dtype: Precision = "fp32"
    """Type of the exported weights; the checkpoint's are fp32."""
    max_shard_gb: float = 2.0
    """Largest safetensors file, in gigabytes (1e9 bytes)."""
    tolerance: float = 1e-4
    """Largest absolute logit difference (computed in fp32 from the exported weights) for the export to be accepted."""
    proof_sequences: int = 4
    """Sequences the logits are compared on, at least 2; every second one has pauses in it."""
    proof: ProofMethod = "auto"
    """Compare the models as a whole, the export as transformers loads it, or with one layer in memory at a time; auto:
    layers above 500 million parameters."""
    bake_pauses: int = 0
    """Pauses the exported tokenizer itself appends to every prompt (tokens), for programs that know nothing of them."""

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance)
        require_at_least(1, proof_sequences=self.proof_sequences)
        require_at_least(0, bake_pauses=self.bake_pauses)
        if self.max_shard_gb <= 0:
            raise UserError(f"--max-shard-gb {self.max_shard_gb}: must be positive")


@dataclass(frozen=True, kw_only=True)
class ConvertFromHfConfig:
    """Convert a Hugging Face Llama or GPT-2 model to a checkpoint that `pause-megatron pretrain --initial-checkpoint`
    starts from under any layout, with `<pause>` added to model and tokenizer; verified by its logits."""

    model: Path
    """Hugging Face folder with safetensors weights and a fast tokenizer (or a SentencePiece tokenizer.model)."""
    output: Path
    """Checkpoint folder to write, with the tokenizer in OUTPUT/tokenizer; must not exist."""
    seed: int = 1234
    """Seed of the embedding that <pause> starts with."""
    tolerance: float = 1e-4
    """Largest absolute logit difference (fp32) for the conversion to be accepted."""
    proof_sequences: int = 4
    """Sequences the logits are compared on, at least 2."""
    proof: ProofMethod = "auto"
    """Compare the models as a whole, or with one layer in memory at a time; auto: layers above 500 million
    parameters."""

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance)
        require_at_least(1, proof_sequences=self.proof_sequences)
        require_at_least(0, seed=self.seed)


def _check_tolerance(tolerance: float) -> None:
    if tolerance <= 0:
        raise UserError(f"--tolerance {tolerance}: must be positive")
