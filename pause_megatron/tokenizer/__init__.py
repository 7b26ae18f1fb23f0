"""Tokenizer shared by training and downstream, in which ``<pause>`` is a token and never text.

- :mod:`~pause_megatron.tokenizer.make_tokenizer` trains one, or adds ``<pause>`` to an existing one.
- :class:`PauseTokenizer` loads it and encodes text.
- :mod:`~pause_megatron.tokenizer.encoders` chooses the library that encodes batches in preprocessing.
- :mod:`~pause_megatron.tokenizer.huggingface` converts it for every Hugging Face folder that this project writes.
"""

from pause_megatron.tokenizer.pause_tokenizer import PAUSE_TOKEN, PauseTokenizer

__all__ = ["PAUSE_TOKEN", "PauseTokenizer"]
