"""``tools/inspect_dataset.py``: what a dataset holds, for the eye.

:mod:`~pause_megatron.preprocess.inspection.command` prints statistics, from the manifest and from
:mod:`measurements <pause_megatron.preprocess.inspection.measurements>` on part of the tokens, and
:mod:`samples <pause_megatron.preprocess.inspection.samples>`, stored sequences
:mod:`shown <pause_megatron.preprocess.inspection.display>` piece by piece;
:mod:`~pause_megatron.preprocess.inspection.picture` draws the histogram.
"""
