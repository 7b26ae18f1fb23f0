"""``tools/inspect_dataset.py``: shows the content of a dataset.

:mod:`~pause_megatron.preprocess.inspection.inspect_dataset` prints statistics from the manifest, statistics that
:mod:`~pause_megatron.preprocess.inspection.measurements` takes from some of the tokens, and stored sequences as text
(:mod:`~pause_megatron.preprocess.inspection.sequence_display`).
:mod:`~pause_megatron.preprocess.inspection.picture` draws the histograms.
"""
