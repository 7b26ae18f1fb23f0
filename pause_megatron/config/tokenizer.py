"""What ``pause-megatron tokenizer`` takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Make a tokenizer with <pause> and an end-of-document token: train a SentencePiece unigram model on C4 text
    (--input), or add <pause> to an existing tokenizer (--from-tokenizer)."""

    input: tuple[str, ...] = ()
    """Text to train on, as paths or quoted globs of .json.gz, .jsonl, .jsonl.zst or .parquet files, as folders of
    datasets.save_to_disk, or as hf:NAME[:CONFIG[:SPLIT]]."""
    from_tokenizer: Path | None = None
    """Tokenizer to take over instead, all its ids unchanged: a SentencePiece .model file, a Hugging Face tokenizer.json
    with the tokenizer_config.json beside it, or a folder with either."""
    output: Path
    """Folder to write; it must not exist yet."""
    keep_scores: bool = False
    """With --from-tokenizer, keep the scores of a SentencePiece unigram model, so that every text is encoded as by the
    original. They are rounded otherwise: libraries can disagree on a text in thousands with scores as they are, and the
    export, if it meets one, would be refused."""
    text_key: str = "text"
    """Field of a record that holds the document (training)."""
    vocab_size: int = 32_768
    """Number of tokens, special ones and the 256 byte tokens included (training)."""
    character_coverage: float = 0.9995
    """Share of the text's characters that get a token of their own; the rest is spelled in bytes (training)."""
    max_training_megabytes: int = 100
    """Text to train on at most, in megabytes; every input file gives an equal share, from its start (training)."""

    def __post_init__(self) -> None:
        if bool(self.input) == (self.from_tokenizer is not None):
            raise UserError("give either --input (at least one file or glob to train on) or --from-tokenizer, not both")
        if self.from_tokenizer is not None:
            self._refuse_training_flags()
        require_at_least(1, vocab_size=self.vocab_size, max_training_megabytes=self.max_training_megabytes)
        if not 0.9 <= self.character_coverage <= 1:
            raise UserError(f"--character-coverage {self.character_coverage}: must be between 0.9 and 1")

    def _refuse_training_flags(self) -> None:
        for field in fields(self):
            changed = getattr(self, field.name) != field.default
            if changed and field.name not in ("input", "from_tokenizer", "output", "keep_scores"):
                flag = "--" + field.name.replace("_", "-")
                raise UserError(f"{flag}: for training with --input; --from-tokenizer keeps all tokens as they are")
