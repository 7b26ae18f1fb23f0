"""Where other packages found the reader before it had a module of its own."""

from __future__ import annotations

from pause_megatron.checkpoint.folders import find_checkpoint, latest_checkpoint
from pause_megatron.checkpoint.reader import CheckpointReader

__all__ = ["CheckpointReader", "find_checkpoint", "latest_checkpoint"]
