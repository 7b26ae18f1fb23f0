"""Configurations of the commands on complete datasets: merge, verify and inspect."""

from dataclasses import dataclass
from pathlib import Path

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MergeDatasetsConfig:
    """Join the shards of datasets written with the same settings into one or a few pairs of files."""

    input: tuple[Path, ...]
    """Dataset folders, merged or not, in the order in which their shards are joined."""
    output: Path
    """Folder of the merged dataset, which must not exist yet."""
    files: int = 1
    """Pairs of .bin and .idx files to write, of about equal size; no shard is cut."""

    def __post_init__(self) -> None:
        if not self.input:
            raise UserError("--input: give at least one dataset folder")
        require_at_least(1, files=self.files)
        folders = [folder.resolve() for folder in self.input]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise UserError(f"--input: {twice} is given twice; give each folder once")


@dataclass(frozen=True, kw_only=True)
class VerifyDatasetConfig:
    """Check a dataset: files against its manifest, pauses against its settings, text against --standard."""

    data: Path
    """Dataset folder, merged or not."""
    standard: Path | None = None
    """The dataset without pauses (--pauses none) from the same input and tokenizer; the real tokens of --data must be
    the same text (not given: the text is checked only by its hash)."""
    hashes: bool = True
    """Compare SHA-256 checksums too."""
    workers: int = 0
    """Processes (0: one for each CPU core)."""

    def __post_init__(self) -> None:
        require_at_least(0, workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class InspectDatasetConfig:
    """Show statistics of a dataset, and stored sequences token by token with their pauses and loss mask."""

    data: Path
    """Dataset folder, merged or not."""
    tokenizer: Path
    """Tokenizer of the dataset."""
    samples: int = 3
    """Number of sequences to show, at equal distances in the dataset (0: none)."""
    indices: tuple[int, ...] = ()
    """Indices of the sequences to show instead of --samples."""
    tokens: int = 256
    """Tokens to show of each sequence (0: all)."""
    histogram: Path | None = None
    """Picture of histograms to write (.png, .svg or .pdf): places of pauses, gaps, runs, lengths of documents."""
    scan_tokens: int = 20_000_000
    """Tokens to read from all shards for the lengths of documents and the histograms (0: all)."""

    def __post_init__(self) -> None:
        require_at_least(0, samples=self.samples, tokens=self.tokens, scan_tokens=self.scan_tokens)
        require_at_least(0, **{f"indices[{place}]": index for place, index in enumerate(self.indices)})
