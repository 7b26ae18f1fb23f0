"""Checkpoints that any layout can load: safetensors fragments of the optimizer's fp32 state, and a JSON manifest.

A checkpoint is a folder. Every process writes one ``rankNNNNN.safetensors`` with the flat pieces of the fp32 master
weights and of Adam's two moments it owns, without gathering anything; rank 0 adds ``manifest.json``, which says where
in which parameter each piece belongs, and renames the folder to its final name. Nothing is unpickled when it is read, a
damaged file is told by its checksum, and another tensor-parallel, pipeline, data-parallel or ZeRO layout reads the same
pieces. DeepSpeed's own checkpoints cannot change layout and are pickles; Megatron-core's distributed checkpoints keep a
pickled index and were four times slower to save.

:class:`~pause_megatron.checkpoint.saver.CheckpointSaver` writes them, :func:`~pause_megatron.checkpoint.resume.
resume_from_newest` goes on from the newest that is whole, and :class:`~pause_megatron.checkpoint.reader.
CheckpointReader` reads them without any process group. ``manifest.py`` is the format, ``folders.py`` decides which
folders count, and the optimizer is read and written through
:mod:`pause_megatron.engine.optimizer_state`.
"""
