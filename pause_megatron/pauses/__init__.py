"""Where pauses go, and which positions carry loss: the definitions both halves share, in plain numpy.

Pretraining data: :mod:`~pause_megatron.pauses.insertion` (with :mod:`~pause_megatron.pauses.counter_hash` for its
randomness), one class for each strategy of ``--pauses``. Pretraining loss: :mod:`~pause_megatron.pauses.loss_mask`.
Finetuning and inference: :mod:`~pause_megatron.pauses.prompts`.
"""
