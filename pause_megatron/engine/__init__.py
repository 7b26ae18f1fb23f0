"""DeepSpeed engine: the only package that imports DeepSpeed or reads its private parts.

Written against DeepSpeed 0.19.8, which ``setup.py`` pins. It uses, beyond the public API:

- ``flat_gradients.py`` replaces five methods of the ZeRO-1 optimizer (``reduce_gradients``, ``zero_grad``,
  ``check_overflow``, ``scaled_global_norm``, ``unscale_and_clip_grads``), removes its gradient hooks, and reads the
  layout of its flat buffers (``bit16_groups_flat``, ``partition_size``, ``params_in_partition``);
- ``optimizer_state.py`` reads and writes the flat fp32 weights and Adam's moments of every ZeRO stage (``_hp_mapping``,
  ``single_partition_of_fp32_groups``, ``fp32_partitioned_groups_flat``) and the counters of fp16's loss scaler;
- ``update.py`` makes ZeRO-2 and ZeRO-3 skip a step (``_get_norm_groups``, ``scaled_global_norm``) and recognises the
  error text "minimum" of an exhausted loss scale;
- ``accelerator.py`` sets DeepSpeed's accelerator, and switches off its compiled CPU operators and its check for fp16
  instructions.

When you upgrade DeepSpeed, expect these names to move. Run ``tests/engine``, ``tests/checkpoint`` and
``tests/training/test_layouts.py``: they compare every ZeRO stage with PyTorch on one process, so a change in meaning
fails there too. ``tests/engine/test_boundary.py`` lists the names and checks that other packages do not use them.
"""

from pause_megatron.engine.accelerator import accelerator_by_name

with accelerator_by_name():
    from deepspeed import DeepSpeedEngine

__all__ = ["DeepSpeedEngine"]
