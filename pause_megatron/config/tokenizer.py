"""What ``pause-megatron tokenizer`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Train a SentencePiece unigram model with <pause> and an end-of-document token on C4 text."""

    input: tuple[str, ...]
    """C4 files (.json.gz, .jsonl), as paths or quoted globs."""
    output: Path
    """Folder to write; it must not exist yet."""
    vocab_size: int = 32_768
    """Number of tokens, special ones and the 256 byte tokens included."""
    character_coverage: float = 0.9995
    """Share of the text's characters that get a token of their own; the rest is spelled in bytes."""
    max_training_megabytes: int = 100
    """Text to train on at most, in megabytes; every input file gives an equal share, from its start."""

    def __post_init__(self) -> None:
        if not self.input:
            raise UserError("--input: give at least one file or glob")
        require_at_least(1, vocab_size=self.vocab_size, max_training_megabytes=self.max_training_megabytes)
        if not 0.9 <= self.character_coverage <= 1:
            raise UserError(f"--character-coverage {self.character_coverage}: must be between 0.9 and 1")
