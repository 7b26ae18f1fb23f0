"""Configuration of conversions to and from Hugging Face."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pause_megatron.config.checks import require_at_least, require_hub_name, require_positive
from pause_megatron.config.deepspeed import Precision

ProofMethod = Literal["auto", "whole", "layers"]


def baking_problem(strategy: str, *, replaces_pause: bool, shares_positions: bool) -> str | None:
    """Return why programs that only append pauses to a prompt cannot run a model as it was trained; None if they can.

    ``strategy`` is the pause strategy of its training data; those of a blend are joined by "+". With
    ``replaces_pause`` the model reads repeated tokens or a filler at the pauses.
    """
    strategies = set(strategy.split("+"))
    if "every" in strategies and not strategies & {"sequence", "document"}:
        return "has pauses after every token in training, and a tokenizer cannot put them into the answer"
    if replaces_pause:
        return "reads other tokens in place of <pause> in training, and does not learn <pause>"
    if shares_positions:
        return "shares the positions of pauses, and other programs number all tokens in a row"
    return None


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Comparison of the logits of both models."""

    tolerance: float = 1e-4
    """Largest accepted absolute difference of a logit, computed in fp32."""
    proof_sequences: int = 2
    """Number of sequences to compare logits on; at least 2 are used, and every second one contains pauses if both
    models have <pause>."""
    proof_length: int = 16
    """Most tokens of each of these sequences; the positions of every second one are spread over the model's context."""
    proof: ProofMethod = "auto"
    """Models in memory during the comparison: whole, or layers (one layer at a time); auto: layers above 20 million
    parameters."""

    def __post_init__(self) -> None:
        require_at_least(1, proof_sequences=self.proof_sequences)
        require_at_least(2, proof_length=self.proof_length)
        require_positive(tolerance=self.tolerance)


@dataclass(frozen=True, kw_only=True)
class ConvertToHfConfig:
    """Export a checkpoint of `pause-megatron pretrain` to a Hugging Face folder, and compare the logits of both."""

    checkpoint: Path
    """Run folder (exports its newest checkpoint), or checkpoint folder."""
    output: Path
    """New Hugging Face folder; must not exist."""
    tokenizer: Path | None = None
    """Tokenizer folder or file (default: the tokenizer of the run)."""
    dtype: Precision = "fp32"
    """Data type of the exported weights; those of the checkpoint are fp32."""
    max_shard_gb: float = 2.0
    """Maximum size of a safetensors file, in gigabytes (1e9 bytes)."""
    bake_pauses: int = 0
    """Pauses that the exported tokenizer appends to every prompt, for programs without support for pauses; 0: none."""
    push_to_hub: str | None = None
    """Repository on the Hugging Face hub for the folder, as OWNER/NAME; a new one is private (default: no upload)."""
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)

    def __post_init__(self) -> None:
        require_hub_name(push_to_hub=self.push_to_hub)
        require_positive(max_shard_gb=self.max_shard_gb)
        require_at_least(0, bake_pauses=self.bake_pauses)


@dataclass(frozen=True, kw_only=True)
class ConvertFromHfConfig:
    """Import a Hugging Face model (GPT-2, Llama, Qwen2 or Qwen3) as a checkpoint for
    `pause-megatron pretrain --initial-checkpoint`, with `<pause>` added to model and tokenizer, and compare the logits
    of both."""

    model: Path
    """Hugging Face folder with safetensors weights and a fast tokenizer or a SentencePiece tokenizer.model."""
    output: Path
    """New checkpoint folder, with the tokenizer in OUTPUT/tokenizer; must not exist."""
    seed: int = 1234
    """Seed of the initial embedding of <pause>."""
    distinct_pauses: int = 1
    """Number of distinct pauses to add: 1 for <pause>; N for <pause1> to <pauseN>, also to a model with <pause>, which
    is then unused."""
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)

    def __post_init__(self) -> None:
        require_at_least(0, seed=self.seed)
        require_at_least(1, distinct_pauses=self.distinct_pauses)
