"""Checkpoints that a run can resume under any layout: safetensors fragments, and a JSON manifest.

A checkpoint is a folder. Each rank writes one ``rankNNNNN.safetensors`` with its fragments of the fp32 master weights
and of Adam's two moments, without gathering anything. Rank 0 adds the tokenizer and ``manifest.json``, which maps each
fragment to a range of a parameter, and renames the folder to its final name. Readers unpickle nothing and find damaged
files by their checksums. DeepSpeed's own checkpoints are pickles and cannot change layout; Megatron-core's distributed
checkpoints keep a pickled index and took four times as long to save.
"""
