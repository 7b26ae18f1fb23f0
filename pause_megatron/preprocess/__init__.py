"""Preprocessing: turns text into Megatron indexed datasets that already contain the pauses.

``tools/preprocess_c4.py`` calls :func:`pause_megatron.preprocess.run.preprocess`, which works in these steps:

1. :mod:`~pause_megatron.preprocess.planning` finds the inputs and the shards that are missing.
2. :mod:`~pause_megatron.preprocess.executors` runs one job for each missing shard, on processes or MPI ranks.
3. :mod:`~pause_megatron.preprocess.shard`, the worker body, reads and encodes the text once.
4. :mod:`~pause_megatron.preprocess.shard_writer` inserts the pauses and writes the files, once for each dataset.

:mod:`~pause_megatron.preprocess.dataset_manifest` describes the files of a dataset folder, and
:mod:`~pause_megatron.preprocess.shard_spans` locates each shard in them. On finished datasets work
:mod:`~pause_megatron.preprocess.merge`, :mod:`~pause_megatron.preprocess.verification` and
:mod:`~pause_megatron.preprocess.inspection`. This package must not import torch.
"""
