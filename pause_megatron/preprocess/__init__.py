"""Text to Megatron indexed datasets with the pauses already in, and what is done with them before training.

Writing (``tools/preprocess_c4.py``): :mod:`~pause_megatron.preprocess.planning` finds what is to be done,
:mod:`~pause_megatron.preprocess.executors` runs it on processes and MPI ranks, :mod:`~pause_megatron.preprocess.shard`
is the one worker body (read, encode once), :mod:`~pause_megatron.preprocess.shard_writer` inserts pauses and writes.
What a folder then holds is said by its :mod:`~pause_megatron.preprocess.manifest`, through which everything opens it.

Afterwards: :mod:`~pause_megatron.preprocess.merge`, :mod:`~pause_megatron.preprocess.verification` and
:mod:`~pause_megatron.preprocess.inspection`, all over :mod:`~pause_megatron.preprocess.parts`. Nothing imports torch.
"""
