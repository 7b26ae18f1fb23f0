"""What ``tools/preprocess_c4.py`` takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class InsertionConfig:
    """Where pauses go, and what a stored sequence is."""

    pauses: Literal["sequence", "document", "every", "none"] = "sequence"
    """At random positions of every sequence (the paper's way); at random positions inside every document, to be packed
    by Megatron; after every token; or nowhere (the standard model)."""
    pause_rate: float = 0.1
    """For 'sequence': pauses inserted per real token of a sequence, before it is trimmed back to its length. For
    'document': pauses per token of a document."""
    pauses_per_token: int = 1
    """For 'every': pauses after each token."""
    gaps: Literal["repeat", "distinct"] = "repeat"
    """Whether several pauses may stand together (a uniform sample of the lengthened sequence's positions), or every
    pause follows a real token of its own."""
    trimmed: Literal["carry", "drop"] = "carry"
    """For 'sequence', real tokens trimmed off: carried to the next sequence (no text is lost), or dropped."""
    seq_length: int = 2048
    """Length of every stored sequence, in tokens; 'document' stores whole documents instead."""
    seed: int = 1234
    """Seed of the pause positions."""

    def __post_init__(self) -> None:
        require_at_least(2, seq_length=self.seq_length)
        require_at_least(0, seed=self.seed)
        if self.pauses == "sequence" and not 1 / self.seq_length <= self.pause_rate < 1:
            raise UserError(
                f"--pause-rate {self.pause_rate}: must be below 1 and give a sequence of {self.seq_length} tokens at "
                "least one pause; for data without pauses use --pauses none"
            )
        if self.pauses == "document" and not 0 < self.pause_rate < 1:
            raise UserError(
                f"--pause-rate {self.pause_rate}: must be above 0 and below 1; "
                "for data without pauses use --pauses none"
            )
        if self.pauses == "every":
            require_at_least(1, pauses_per_token=self.pauses_per_token)
            group = self.pauses_per_token + 1
            if self.seq_length % group:
                raise UserError(
                    f"--pauses-per-token {self.pauses_per_token}: a token with its pauses takes {group} positions, so "
                    f"--seq-length {self.seq_length} must be a multiple of {group}, for example "
                    f"{self.seq_length // group * group or group}"
                )


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """C4 text to Megatron indexed datasets, with the pauses already in. Run again after an interruption to resume."""

    input: tuple[str, ...]
    """Text, as paths or quoted globs of .json.gz, .jsonl, .jsonl.zst or .parquet files, as folders of
    datasets.save_to_disk, or as hf:NAME[:CONFIG[:SPLIT]]; each file or shard becomes one shard of the dataset."""
    tokenizer: Path
    """Tokenizer folder, SentencePiece .model file or Hugging Face tokenizer.json, with a <pause> token."""
    output: Path
    """Folder of the dataset."""
    insertion: InsertionConfig = field(default_factory=InsertionConfig)
    also: tuple[str, ...] = ()
    """More datasets to write from the same pass, each as STRATEGY[,FLAG=VALUE...]:FOLDER; flags not named are as
    above. Example: none:data/standard every,pauses-per-token=3:data/every3"""
    text_key: str = "text"
    """Field of a record that holds the document."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a record that cannot be read: stop and name it, or leave it out and count it in the manifest."""
    max_document_megabytes: int = 256
    """A longer record is an error; a worker's memory is bounded by it."""
    encoder: Literal["auto", "reference", "gigatoken"] = "auto"
    """What encodes: the tokenizer's own library (reference), or gigatoken, for BPE, once it has been found equal on
    the first documents; auto takes gigatoken where it is installed and equal."""
    shard_range: str = ""
    """Only the shards from START to before END, written START:END; for Slurm arrays. The dataset is finished by
    whichever run finds all shards done."""
    engine: Literal["auto", "process", "serial", "mpi"] = "auto"
    """What runs the shards: a pool of processes, this process, or the ranks that mpirun or srun started, each with its
    own pool; auto takes the ranks where there are several."""
    workers: int = 0
    """Processes (of each rank); 0: one for each CPU core, or one for each rank."""

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
            raise UserError("--text-key: must not be empty")
        require_at_least(0, workers=self.workers)
        require_at_least(1, max_document_megabytes=self.max_document_megabytes)
        folders = [folder.resolve() for folder, _ in self.outputs()]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise UserError(f"--also: two datasets would be written to {twice}")
        self.shard_indices(0)

    def outputs(self) -> tuple[tuple[Path, InsertionConfig], ...]:
        """The datasets to write: folder and insertion of each, that of ``--output`` first."""
        return ((self.output, self.insertion), *(_parse_also(text, self.insertion) for text in self.also))

    def shard_indices(self, count: int) -> range:
        """The indices of the shards to work on, of ``count``."""
        if not self.shard_range:
            return range(count)
        start, colon, end = self.shard_range.partition(":")
        if not (colon and start.isdecimal() and end.isdecimal() and int(start) < int(end)):
            raise UserError(
                f"--shard-range {self.shard_range}: expected START:END, with START below END, for example 0:128"
            )
        return range(min(int(start), count), min(int(end), count))


def _parse_also(text: str, base: InsertionConfig) -> tuple[Path, InsertionConfig]:
    """The folder and the insertion of one value of ``--also``."""
    description, colon, folder = text.partition(":")
    strategy, *assignments = description.split(",")
    if not (colon and folder):
        raise UserError(f"--also {text}: expected STRATEGY[,FLAG=VALUE...]:FOLDER, for example none:data/standard")
    values: dict[str, Any] = {**vars(base), "pauses": strategy}
    for assignment in assignments:
        flag, _, value = assignment.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if name not in values or name == "pauses":
            flags = ", ".join(known.replace("_", "-") for known in values if known != "pauses")
            raise UserError(f"--also {text}: unknown flag '{flag}'; flags: {flags}")
        values[name] = value
    try:
        return Path(folder), msgspec.convert(values, InsertionConfig, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"--also {text}: {str(error).replace('$.', '')}") from error
    except UserError as error:
        raise UserError(f"--also {text}: {error}") from error
