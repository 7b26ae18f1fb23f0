"""``pause-megatron verify-dataset``: is a dataset what its manifest says, and what its settings ask for?

:mod:`~pause_megatron.preprocess.verification.command` plans and reports. Every pair of files is checked for sizes,
header and hash (:mod:`~pause_megatron.preprocess.verification.files`); every shard for its manifest entry
(:mod:`~pause_megatron.preprocess.verification.entries`), its lengths, offsets and document boundaries
(:mod:`~pause_megatron.preprocess.verification.index`), and its tokens, read once, in pieces
(:mod:`~pause_megatron.preprocess.verification.tokens`): counts, what the strategy asks for
(:mod:`~pause_megatron.preprocess.verification.strategies`), the standard twin
(:mod:`~pause_megatron.preprocess.verification.twin`) and the hash. Each check adds its
:mod:`~pause_megatron.preprocess.verification.faults`.
"""
