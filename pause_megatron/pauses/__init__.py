"""Placement of pauses and the loss mask, shared by training and downstream; plain numpy.

- :mod:`~pause_megatron.pauses.insertion`: pretraining data, one class for each strategy of ``--pauses``; its random
  draws come from :mod:`~pause_megatron.pauses.counter_hash`.
- :mod:`~pause_megatron.pauses.loss_mask`: pretraining loss.
- :mod:`~pause_megatron.pauses.prompts`: finetuning and inference.
"""
