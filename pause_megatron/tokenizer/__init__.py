"""The tokenizer both halves share: a SentencePiece model in which ``<pause>`` is a token and never text.

Trained by :mod:`~pause_megatron.tokenizer.training`, read by preprocessing as :class:`PauseTokenizer`, and turned by
:mod:`~pause_megatron.tokenizer.huggingface` into the tokenizer of every Hugging Face folder this project writes.
:mod:`~pause_megatron.tokenizer.corpus` reads the C4 text that training and preprocessing start from.
"""

from pause_megatron.tokenizer.pause_tokenizer import END_OF_DOCUMENT_PIECE, PAUSE_PIECE, PauseTokenizer

__all__ = ["END_OF_DOCUMENT_PIECE", "PAUSE_PIECE", "PauseTokenizer"]
