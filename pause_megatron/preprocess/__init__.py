"""C4 text to Megatron indexed datasets with the pauses already in (``tools/preprocess_c4.py``).

:mod:`~pause_megatron.preprocess.run` plans one job for each input file and an
:mod:`engine <pause_megatron.preprocess.executors>` runs them; :mod:`~pause_megatron.preprocess.shard` is the one worker
body: read, encode, insert pauses, write (:mod:`~pause_megatron.preprocess.indexed_writer`). What a folder then holds is
said by its :mod:`~pause_megatron.preprocess.manifest`, through which training opens it. Nothing here imports torch.
"""
