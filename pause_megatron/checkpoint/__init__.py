"""Checkpoints that a run can resume under any layout: safetensors fragments, and a JSON manifest.

A checkpoint is a folder. Each rank writes one ``rankNNNNN.safetensors`` with its fragments of the fp32 master weights
and of Adam's two moments, without gathering anything. Rank 0 adds ``manifest.json``, which maps each fragment to a
range of a parameter, and renames the folder to its final name. Readers unpickle nothing, find damaged files by their
checksums, and may use another tensor-parallel, pipeline, data-parallel or ZeRO layout. DeepSpeed's own checkpoints are
pickles and cannot change layout; Megatron-core's distributed checkpoints keep a pickled index and took four times as
long to save.

- :class:`~pause_megatron.checkpoint.saver.CheckpointSaver` saves.
- :func:`~pause_megatron.checkpoint.load.resume_from_newest` resumes from the newest complete checkpoint.
- :class:`~pause_megatron.checkpoint.reader.CheckpointReader` reads without a process group, for example to convert.
- ``checkpoint_manifest.py`` defines the format, and ``checkpoint_folders.py`` which folders count.
"""
