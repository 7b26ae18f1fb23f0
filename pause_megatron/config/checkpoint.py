"""When a run is saved, and which of its checkpoints are kept."""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.config.checks import require_at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of a run."""

    save_interval: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest complete checkpoints kept; older ones are removed."""
    keep_every: int = 0
    """Checkpoints whose step is a multiple of this are never removed; 0: none is spared."""
    async_save: bool = False
    """Write checkpoints while training goes on, from a copy of the optimizer's state in CPU memory (12 bytes for each
    parameter a process updates)."""

    def __post_init__(self) -> None:
        require_at_least(1, save_interval=self.save_interval, keep_checkpoints=self.keep_checkpoints)
        require_at_least(0, keep_every=self.keep_every)
