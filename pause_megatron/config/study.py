"""Content of a study: the key ``pretrain`` of a grid file, with models by pause strategy and rate, sizes and seeds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pause_megatron.config.preprocess import InsertionConfig

Equality = Literal["tokens", "real_tokens", "nothing"]
"""What models of one size must have seen equally much of: all tokens, as in the paper, or real tokens."""


@dataclass(frozen=True, kw_only=True)
class StudyModel:
    """One pretrained model of a study, trained at every size and from every seed."""

    insertion: InsertionConfig | None = None
    """Pauses in its training data; None if ``data`` is given."""
    data: Path | None = None
    """Existing dataset folder; None to preprocess the text of the study."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of ``pause-megatron pretrain`` for this model."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Every model at every size from every seed, and the data that they are trained on."""

    models: dict[str, StudyModel]
    """Name to data and settings."""
    sizes: dict[str, dict[str, Any]]
    """Name to settings of ``pause-megatron pretrain``; without settings, the name is a preset."""
    seeds: tuple[int, ...] = (1234,)
    """Seeds of the initial weights and of the data order."""
    text: tuple[str, ...] = ()
    """Training text, as in ``--input`` of pause-megatron preprocess."""
    validation_text: tuple[str, ...] = ()
    """Held-out text; every model is validated on it with the pauses of every model."""
    tokenizer: Path | None = None
    """Existing tokenizer; None to make one."""
    make_tokenizer: dict[str, Any] = field(default_factory=dict)
    """Settings of ``pause-megatron tokenizer``."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Settings of pause-megatron preprocess for all datasets."""
    parts: int = 1
    """Jobs that share the preprocessing of the training text."""
    merge: int = 0
    """Pairs of files to merge each training dataset into; 0: do not merge."""
    verify: bool = True
    """Whether to verify every dataset before it is used."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of ``pause-megatron pretrain`` for all models."""
    processes: int = 1
    """Ranks of each pretraining; on Slurm, the tasks of its job."""
    export: dict[str, Any] = field(default_factory=dict)
    """Settings of pause-megatron convert-to-hf."""
    folder: Path | None = None
    """Folder of tokenizer and data, which studies can share; None: the output folder."""
