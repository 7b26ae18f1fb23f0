"""DeepSpeed engine: the only package that imports DeepSpeed or reads its private parts.

Written against DeepSpeed 0.19.8, which ``setup.py`` pins. It uses, beyond the public API:

- ``flat_gradients.py``, ``flat_updater.py`` and ``weight_gathering.py`` replace the step of the ZeRO-1 optimizer: they
  remove its gradient hooks, read the layout of its flat buffers (``bit16_groups_flat``, ``partition_size``,
  ``params_in_partition``) and update its fp32 partitions;
- ``partitioned_updater.py`` computes the gradient norm of ZeRO-2 and ZeRO-3 and replaces four methods of their steps,
  which would each make the host wait for the GPU;
- ``optimizer_state.py`` reads and writes the flat fp32 weights and Adam's moments of every ZeRO stage (``_hp_mapping``,
  ``single_partition_of_fp32_groups``, ``fp32_partitioned_groups_flat``) and the counters of fp16's loss scaler;
- ``updater.py`` recognises the error text "minimum" of an exhausted loss scale;
- ``accelerator.py`` sets DeepSpeed's accelerator, and switches off its compiled CPU operators and its check for fp16
  instructions.

When you upgrade DeepSpeed, expect these names to move. Run ``tests/engine``, ``tests/checkpoint`` and
``tests/training/test_layouts.py``: they compare every ZeRO stage with PyTorch on one process, so a change in meaning
fails there too. ``tests/engine/test_boundary.py`` lists the names and checks that other packages do not use them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pause_megatron.engine.accelerator import accelerator_by_name

with accelerator_by_name():
    from deepspeed import DeepSpeedEngine

from pause_megatron.engine.updater import Updater


@dataclass(frozen=True, kw_only=True)
class Engine:
    """DeepSpeed's engine, and the updater that completes and applies its gradients."""

    deepspeed: DeepSpeedEngine
    updater: Updater

    def callable(self, chunk: torch.nn.Module) -> Any:
        """What to call for the forward pass of ``chunk``: under ZeRO-2 and ZeRO-3 the engine, whose hooks they need.

        They have one chunk, which the engine wraps.
        """
        return self.deepspeed if self.deepspeed.zero_optimization_partition_gradients() else chunk

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the model into evaluation mode inside the block."""
        self.deepspeed.eval()
        try:
            yield
        finally:
            self.deepspeed.train()


__all__ = ["DeepSpeedEngine", "Engine"]
