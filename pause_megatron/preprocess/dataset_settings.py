"""Settings of a dataset, part of its manifests."""

from dataclasses import dataclass, fields
from typing import Literal

from pause_megatron.pauses.positions import most_real_tokens


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """Settings that, with the text and its order, determine every byte. A setting the strategy ignores is 0."""

    strategy: Literal["sequence", "document", "every", "none"]
    """Value of ``--pauses``."""
    pause_rate: float
    """Pauses inserted per real token (before trimming, for ``sequence``); the mean if ``rates`` is ``drawn``."""
    pauses_per_token: int
    """Pauses after every token, or after every ``pause_interval`` tokens, for ``every``."""
    gaps: Literal["repeat", "distinct"]
    """Value of ``--gaps``; ``repeat`` if the strategy ignores it."""
    trimmed: Literal["carry", "drop"]
    """``carry`` if each sequence continues the text of the sequence before it in its shard, else ``drop``."""
    seq_length: int
    """Tokens in every stored sequence; 0 for ``document``, which stores complete documents."""
    seed: int
    """Seed of the pause positions."""
    text_key: str
    """Field of an input record that holds the document."""
    tokenizer_sha256: str
    """SHA-256 of the tokenizer's file."""
    encoder: str
    """What encoded the text: ``sentencepiece``, ``tokenizers``, ``gigatoken`` or ``word-table``."""
    vocab_size: int
    """Tokens of the tokenizer, including special tokens; all ids are below it."""
    pause_id: int
    eod_id: int
    """Id of the end-of-document token, which follows every document."""
    bos_ids: tuple[int, ...] | None = None
    """Ids before every document: the beginning-of-text token of a tokenizer that puts one before a text. None if
    there are none."""
    rates: Literal["fixed", "drawn"] | None = None
    """Value of ``--rates``; None: ``fixed``, or ignored by the strategy."""
    pause_interval: int | None = None
    """Real tokens between two groups of pauses, for ``every``; None: 1."""
    distinct_pauses: int | None = None
    """Number of distinct pauses, with the ids from ``pause_id`` on; None: one."""

    @property
    def pause_ids(self) -> range:
        """Ids of the pauses."""
        return range(self.pause_id, self.pause_id + (self.distinct_pauses or 1))

    @property
    def interval(self) -> int:
        """Real tokens between two groups of pauses, for ``every``."""
        return self.pause_interval or 1

    @property
    def kind_of_rates(self) -> Literal["fixed", "drawn"]:
        """Whether each sequence or document has a rate of its own."""
        return self.rates or "fixed"

    def most_real_tokens(self, seq_length: int) -> int:
        """Return the largest number of real tokens in ``seq_length`` tokens from the start of a sequence."""
        if self.strategy != "every":
            return seq_length
        return most_real_tokens(seq_length, self.pauses_per_token, self.interval)


def differing_setting(settings: DatasetSettings, others: DatasetSettings) -> str | None:
    """Return the name of the first setting in which the two differ, or None."""
    names = (field.name for field in fields(DatasetSettings))
    return next((name for name in names if getattr(settings, name) != getattr(others, name)), None)
