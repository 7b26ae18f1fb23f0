"""``pause-megatron inspect-dataset``: shows the content of a dataset.

``inspect_dataset`` prints statistics of the manifest, ``measurements`` of some of the tokens, and stored sequences as
text (``sequence_display``). ``picture`` draws the histograms.
"""
