"""Configurations of the commands that work on finished datasets: merging, verifying and inspecting them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MergeDatasetsConfig:
    """Join the shards of one or several datasets, written with the same settings, into one or a few pairs of files."""

    input: tuple[Path, ...]
    """Dataset folders, merged ones too; their shards are joined in this order."""
    output: Path
    """Folder of the merged dataset; must not exist."""
    files: int = 1
    """Pairs of .bin and .idx files to write; shards are not cut, and the files come out about equally large."""

    def __post_init__(self) -> None:
        if not self.input:
            raise UserError("--input: give at least one dataset folder")
        require_at_least(1, files=self.files)
        folders = [folder.resolve() for folder in self.input]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise UserError(f"--input: {twice} is given twice")


@dataclass(frozen=True, kw_only=True)
class VerifyDatasetConfig:
    """Check a dataset: its files against its manifest, its pauses against its settings, its text against its twin."""

    data: Path
    """Dataset folder, merged or not."""
    standard: Path | None = None
    """Dataset written with --pauses none from the same input with the same tokenizer: what is left of --data without
    its pauses must be the same text."""
    hashes: bool = True
    """Whether to compare SHA-256 sums too."""
    workers: int = 0
    """Processes that check shards; 0: one for each CPU core."""

    def __post_init__(self) -> None:
        require_at_least(0, workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class InspectDatasetConfig:
    """Show what a dataset holds: statistics, and stored sequences piece by piece with their pauses and loss mask."""

    data: Path
    """Dataset folder, merged or not."""
    tokenizer: Path
    """The tokenizer it was written with."""
    samples: int = 3
    """Sequences to show, evenly spread over the dataset."""
    indices: tuple[int, ...] = ()
    """Sequences to show, by index, instead of --samples."""
    tokens: int = 256
    """Tokens shown of each sequence; 0: all."""
    histogram: Path | None = None
    """Picture to write (.png, .svg or .pdf): where pauses stand, gaps and runs, lengths of documents."""
    scan_tokens: int = 20_000_000
    """Tokens read, evenly spread over the dataset, for the lengths of documents and the histogram; 0: all."""

    def __post_init__(self) -> None:
        require_at_least(0, samples=self.samples, tokens=self.tokens, scan_tokens=self.scan_tokens)
        require_at_least(0, **{f"indices[{place}]": index for place, index in enumerate(self.indices)})
