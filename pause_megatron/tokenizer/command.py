"""``pause-megatron tokenizer``: train a tokenizer, or add ``<pause>`` to an existing one."""

from __future__ import annotations

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.tokenizer.adding_pause import add_pause


def make_tokenizer(config: TokenizerConfig) -> None:
    """Write the tokenizer folder ``config.output``; see :func:`~pause_megatron.tokenizer.training.train_tokenizer` and
    :func:`~pause_megatron.tokenizer.adding_pause.add_pause`."""
    if config.from_tokenizer is not None:
        add_pause(config.from_tokenizer, config.output, keep_scores=config.keep_scores)
    else:
        from pause_megatron.tokenizer.training import train_tokenizer

        train_tokenizer(config)
