"""The tokenizer both halves share: one in which ``<pause>`` is a token and never text.

Made by ``pause-megatron tokenizer`` (:mod:`~pause_megatron.tokenizer.training` trains one, and
:mod:`~pause_megatron.tokenizer.adding_pause` adds ``<pause>`` to an existing one), read as :class:`PauseTokenizer`, run
over the text of preprocessing by :mod:`~pause_megatron.tokenizer.encoders`, and turned by
:mod:`~pause_megatron.tokenizer.huggingface` into the tokenizer of every Hugging Face folder this project writes.
"""

from pause_megatron.tokenizer.pause_tokenizer import PAUSE_TOKEN, PauseTokenizer

__all__ = ["PAUSE_TOKEN", "PauseTokenizer"]
