"""``tools/inspect_dataset.py``: what a dataset holds, for the eye.

:mod:`~pause_megatron.preprocess.inspection.inspect_dataset` prints statistics, from the manifest and from
:mod:`measurements <pause_megatron.preprocess.inspection.measurements>` on part of the tokens, and
:mod:`samples <pause_megatron.preprocess.inspection.sequence_display>`, stored sequences
:mod:`shown <pause_megatron.preprocess.inspection.sequence_display>` piece by piece;
:mod:`~pause_megatron.preprocess.inspection.picture` draws the histogram.
"""
