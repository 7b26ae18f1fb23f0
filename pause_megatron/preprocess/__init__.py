"""Preprocessing: turns text into Megatron indexed datasets that already contain the pauses.

The pipeline is ``run``: ``planning`` (find the inputs and the missing shards), ``executors`` (one job for each missing
shard, on processes or MPI ranks), ``shard`` (the worker body reads and encodes the text once) and ``shard_writer``
(insert pauses and write the files, once for each dataset). ``dataset_manifest`` describes the files of a folder, and
``shard_spans`` locates each shard in them. ``merge``, ``verification`` and ``inspection`` work on complete datasets.
This package must not import torch.
"""
