"""Configuration of baking: a copy of a model that pauses in programs without support for pauses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pause_megatron.config.checks import require_at_least, require_hub_name


@dataclass(frozen=True, kw_only=True)
class BakeConfig:
    """Copy a model with a tokenizer that appends pauses to every prompt, for servers and other programs without support
    for pauses."""

    model: Path
    """Hugging Face folder, or the name of a model on the hub: finetuned or exported, with <pause> in its tokenizer."""
    output: Path
    """New folder; must not exist."""
    num_pauses: int | None = None
    """Pauses that the tokenizer appends (default: as in finetuning)."""
    prefix_attention: Literal["causal"] | None = None
    """causal: bake a model that was finetuned with attention in both directions too, although other programs attend
    causally; evaluate it with --prefix-attention causal first (default: refuse such a model)."""
    evaluations: tuple[Path, ...] = ()
    """Result files of 'evaluate' for the model card."""
    push_to_hub: str | None = None
    """Repository on the Hugging Face hub for the folder, as OWNER/NAME; a new one is private (default: no upload)."""

    def __post_init__(self) -> None:
        require_at_least(1, num_pauses=1 if self.num_pauses is None else self.num_pauses)
        require_hub_name(push_to_hub=self.push_to_hub)
