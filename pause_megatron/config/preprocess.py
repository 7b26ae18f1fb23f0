"""Configuration of preprocessing: the flags of ``pause-megatron preprocess``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError
from pause_megatron.remote_files import address_of

USED_BY_STRATEGY: dict[str, tuple[str, ...]] = {
    "sequence": ("pause_rate", "rates", "gaps", "trimmed"),
    "document": ("pause_rate", "rates", "gaps"),
    "every": ("pauses_per_token", "pause_interval"),
    "none": (),
}
"""Pause strategy to the settings that belong to it."""


@dataclass(frozen=True, kw_only=True)
class InsertionConfig:
    """Pause insertion and stored sequences of one dataset."""

    pauses: Literal["sequence", "document", "every", "none"] = "sequence"
    """Places of pauses: random in every sequence (sequence, as in the paper), random in every document (document, which
    Megatron packs when it reads them), after every token or every --pause-interval tokens (every), or none, for the
    standard model."""
    pause_rate: float = 0.1
    """Pauses per real token, for sequence (before the sequence is trimmed back to its length) and document."""
    rates: Literal["fixed", "drawn"] = "fixed"
    """Rate of each sequence or document: --pause-rate (fixed), or drawn for each uniformly from 0 to twice --pause-rate
    (drawn), so that a model learns several numbers of pauses."""
    pauses_per_token: int = 1
    """Pauses after each token, or after each --pause-interval tokens, for every."""
    pause_interval: int = 1
    """Real tokens between two groups of pauses, for every: 2 pauses after every second token."""
    gaps: Literal["repeat", "distinct"] = "repeat"
    """Gaps between real tokens: several pauses may share one (repeat, a uniform sample of positions), or each pause has
    its own (distinct)."""
    trimmed: Literal["carry", "drop"] = "carry"
    """Real tokens trimmed off by sequence: the next sequence starts with them (carry, no text is lost), or they are
    lost (drop)."""
    seq_length: int = 2048
    """Length of stored sequences in tokens; document ignores it and stores complete documents."""
    seed: int = 1234
    """Seed of the pause positions."""

    def __post_init__(self) -> None:
        require_at_least(2, seq_length=self.seq_length)
        require_at_least(0, seed=self.seed)
        if self.pauses == "sequence" and not 1 / self.seq_length <= self.pause_rate < 1:
            raise UserError(
                f"--pause-rate {self.pause_rate}: must be below 1 and at least 1 / {self.seq_length}, one pause per "
                "sequence; for data without pauses use --pauses none"
            )
        if self.pauses == "document" and not 0 < self.pause_rate < 1:
            raise UserError(
                f"--pause-rate {self.pause_rate}: must be above 0 and below 1; for no pauses use --pauses none"
            )
        if self.rates == "drawn" and self.pauses in ("sequence", "document") and self.pause_rate >= 0.5:
            raise UserError(
                f"--pause-rate {self.pause_rate}: --rates drawn draws rates up to twice as large, which must be below"
                " 1; give a rate below 0.5"
            )
        if self.pauses == "every":
            require_at_least(1, pauses_per_token=self.pauses_per_token, pause_interval=self.pause_interval)
            group = self.pause_interval + self.pauses_per_token
            if self.seq_length % group:
                tokens = "a token with its" if self.pause_interval == 1 else f"{self.pause_interval} tokens with their"
                raise UserError(
                    f"--pauses-per-token {self.pauses_per_token}: {tokens} pauses take {group} positions, so "
                    f"--seq-length {self.seq_length} must be a multiple of {group}, for example "
                    f"{self.seq_length // group * group or group}"
                )


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Convert text to Megatron indexed datasets that contain pauses. Rerun the same command to resume."""

    input: tuple[str, ...]
    """Text: paths or quoted globs of .json.gz, .jsonl, .jsonl.zst or .parquet files, also at addresses such as s3://,
    folders of datasets.save_to_disk, or hf:NAME[:CONFIG[:SPLIT]]. Each file becomes one shard."""
    tokenizer: Path
    """Tokenizer folder, SentencePiece .model file or Hugging Face tokenizer.json, with a <pause> token."""
    output: Path
    """Folder of the dataset; an address such as s3://bucket/data gets each shard when it is complete."""
    insertion: InsertionConfig = field(default_factory=InsertionConfig)
    also: tuple[str, ...] = ()
    """Further datasets from the same pass, each as STRATEGY[,FLAG=VALUE...]:FOLDER, with the flags above unless given,
    for example none:data/standard every,pauses-per-token=3:data/every3."""
    text_key: str = "text"
    """Field of an input record that holds the document."""
    on_error: Literal["stop", "skip"] = "stop"
    """Action on an unreadable record: stop with an error, or leave it out and count it in the manifest (skip)."""
    max_document_megabytes: int = 256
    """Longest record in megabytes; a longer one is an error. It bounds the memory of a worker."""
    encoder: Literal["auto", "reference", "gigatoken", "word-table"] = "auto"
    """Encoder: the tokenizer's own library (reference), gigatoken (BPE only), or a table of the words seen before
    (word-table, SentencePiece unigram only). A run compares them on the first documents; auto uses a fast one if it is
    equal and installed."""
    shard_range: str = ""
    """Shards to process, as START:END without END, or as PART/PARTS with PART from 0, for Slurm arrays (empty: all).
    The run that finds all shards complete finishes the dataset."""
    engine: Literal["auto", "process", "serial", "mpi"] = "auto"
    """Executor: a pool of processes, this process only (serial), or the ranks started by mpirun or srun, each with its
    own pool (mpi); auto uses the ranks if there are several."""
    workers: int = 0
    """Processes of each rank (0: one for each CPU core, or one for each MPI rank)."""

    GROUPS: ClassVar[dict[str, str]] = {
        "input": "data",
        "also": "more outputs",
        "text_key": "reading",
        "engine": "work",
    }

    def __post_init__(self) -> None:
        if not self.input:
            raise UserError("--input: give at least one file or glob")
        if not self.text_key:
            raise UserError("--text-key: is empty; give the name of a field")
        require_at_least(0, workers=self.workers)
        require_at_least(1, max_document_megabytes=self.max_document_megabytes)
        folders = [address_of(folder) or str(folder.resolve()) for folder, _ in self.outputs()]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise UserError(f"--also: {twice} is given for two datasets; give each its own folder")
        self.shard_indices(0)

    def outputs(self) -> tuple[tuple[Path, InsertionConfig], ...]:
        """Return folder and insertion of each dataset to write, that of ``--output`` first."""
        return ((self.output, self.insertion), *(_parse_also(text, self.insertion) for text in self.also))

    def shard_indices(self, count: int) -> range:
        """Return the indices of the shards to process, out of ``count``."""
        if not self.shard_range:
            return range(count)
        part, slash, parts = self.shard_range.partition("/")
        if slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts):
            return range(count * int(part) // int(parts), count * (int(part) + 1) // int(parts))
        start, colon, end = self.shard_range.partition(":")
        if not (colon and start.isdecimal() and end.isdecimal() and int(start) < int(end)):
            raise UserError(
                f"--shard-range {self.shard_range}: must be START:END with START below END, or PART/PARTS with"
                " PART below PARTS; for example, give 0:128 or 0/16"
            )
        return range(min(int(start), count), min(int(end), count))


def _parse_also(text: str, base: InsertionConfig) -> tuple[Path, InsertionConfig]:
    description, colon, folder = text.partition(":")
    strategy, *assignments = description.split(",")
    if not (colon and folder):
        raise UserError(f"--also {text}: must be STRATEGY[,FLAG=VALUE...]:FOLDER; for example, give none:data/standard")
    values: dict[str, Any] = {**vars(base), "pauses": strategy}
    for assignment in assignments:
        flag, _, value = assignment.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if name not in values or name == "pauses":
            flags = ", ".join(known.replace("_", "-") for known in values if known != "pauses")
            raise UserError(f"--also {text}: unknown flag '{flag}'; use one of {flags}")
        values[name] = value
    try:
        return Path(folder), msgspec.convert(values, InsertionConfig, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"--also {text}: {str(error).replace('$.', '')}") from error
    except UserError as error:
        raise UserError(f"--also {text}: {error}") from error
