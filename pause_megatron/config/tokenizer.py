"""Configuration of ``pause-megatron tokenizer``."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Make a tokenizer with <pause> and an end-of-document token: train a SentencePiece unigram model on text
    (--input), or add <pause> to an existing tokenizer (--from-tokenizer)."""

    input: tuple[str, ...] = ()
    """Training text: paths or quoted globs of .json.gz, .jsonl, .jsonl.zst or .parquet files, also at addresses such as
    s3://, folders of datasets.save_to_disk, or hf:NAME[:CONFIG[:SPLIT]]."""
    from_tokenizer: Path | None = None
    """Existing tokenizer, which keeps all its ids: a SentencePiece .model file, a Hugging Face tokenizer.json next to
    its tokenizer_config.json, or a folder with either."""
    output: Path
    """New tokenizer folder; must not exist."""
    distinct_pauses: int = 1
    """Number of distinct pauses: 1 for <pause>; N for <pause1> to <pauseN>, the first to N-th pause of a run. In a
    longer run <pauseN> repeats."""
    keep_scores: bool = False
    """Keep the exact scores of a SentencePiece unigram model (--from-tokenizer), so that every text is encoded as by
    the original. Without this flag scores are rounded; unrounded, libraries can disagree on about one text in
    thousands, and an export that meets such a text is refused."""
    text_key: str = "text"
    """JSON key or column of the document (--input)."""
    vocab_size: int = 32_768
    """Number of tokens, including special tokens and the 256 byte tokens (--input)."""
    character_coverage: float = 0.9995
    """Share of the text's characters covered by tokens, 0.9 to 1; other characters are spelled in bytes (--input)."""
    max_training_megabytes: int = 100
    """Training text to read, in megabytes, in equal shares from the start of every input file (--input)."""

    GROUPS: ClassVar[dict[str, str]] = {"input": "tokenizer", "text_key": "training"}

    def __post_init__(self) -> None:
        if bool(self.input) == (self.from_tokenizer is not None):
            raise UserError(
                "--input, --from-tokenizer: expected exactly one of them; give text to train on, or a tokenizer"
            )
        for field in fields(self):
            is_of_training = field.name not in ("input", "from_tokenizer", "output", "keep_scores", "distinct_pauses")
            if self.from_tokenizer and is_of_training and getattr(self, field.name) != field.default:
                flag = "--" + field.name.replace("_", "-")
                raise UserError(
                    f"{flag}: applies only to training; leave it out, or give --input instead of --from-tokenizer"
                )
        require_at_least(1, distinct_pauses=self.distinct_pauses)
        require_at_least(1, vocab_size=self.vocab_size, max_training_megabytes=self.max_training_megabytes)
        if not 0.9 <= self.character_coverage <= 1:
            raise UserError(f"--character-coverage {self.character_coverage}: must be between 0.9 and 1")
