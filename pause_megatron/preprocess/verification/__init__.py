"""``pause-megatron verify-dataset``: checks a dataset against its manifest, settings and text.

:mod:`~pause_megatron.preprocess.verification.verify_dataset` plans the checks and prints the result. For every pair of
files :mod:`~pause_megatron.preprocess.verification.index_checks` checks sizes, header and hash. For every shard
:mod:`~pause_megatron.preprocess.verification.shard_checks` checks the entry in the manifest
(:mod:`~pause_megatron.preprocess.verification.manifest_checks`), the index, and the tokens, which it reads once:
:mod:`~pause_megatron.preprocess.verification.replay` inserts the pauses again and compares.
"""
