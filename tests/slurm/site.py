"""A site: a separate checkout with only ``slurm/env.sh`` edited for the private cluster."""

from __future__ import annotations

import gzip
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from tests.chain import SEQ_LENGTH, preprocess_config
from tests.slurm.cluster import REPOSITORY
from tests.slurm.daemons import GPUS

C4 = REPOSITORY.parent / "shared" / "data" / "c4" / "c4-train.small.json.gz"
"""Real C4 text, which may be missing."""
SHARDS = 4
TINY = ("--preset", "tiny", "--max-position-embeddings", SEQ_LENGTH, "--log-interval", 1)
TINY += ("--deepspeed", REPOSITORY / "ds_configs" / "zero1_fp32.json", "--tensor-model-parallel-size", 2)
TINY += ("--global-batch-size", 8, "--micro-batch-size", 2, "--validation-sequences", 8)
"""Flags of a tiny pretraining on two tensor-parallel processes."""


def link_checkout(folder: Path) -> Path:
    """Make the checkout ``folder/checkout``: links to this one, and a copy of ``slurm/`` to edit; return its path."""
    checkout = folder / "checkout"
    checkout.mkdir(parents=True)
    for name in ("pause_megatron", "tools", "ds_configs"):
        (checkout / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "slurm", checkout / "slurm")
    return checkout


def make_site(folder: Path) -> Path:
    """Make a checkout edited for the private cluster, and text in ``folder/c4``; return the checkout's path."""
    checkout = link_checkout(folder)
    write_text(folder / "c4")
    edit_env(
        checkout,
        GPUS_PER_NODE=GPUS,
        CPUS_PER_GPU=1,
        PRETRAIN_130M_GPUS=2 * GPUS,
        PREPROCESS_TASKS=2,
        PREPROCESS_CPUS=1,
        GPU_TIME="0:30:00",
        CPU_TIME="0:30:00",
        WORK=folder / "work",
        C4=f"'{folder}/c4/*-train.*'",
        C4_VALIDATION=f"'{folder}/c4/*-validation.*'",
        TASKS=folder / "tasks",
        PYTHON=sys.executable,
    )
    return checkout


def edit_env(checkout: Path, **settings: object) -> None:
    """Set variables in the checkout's ``slurm/env.sh``, as you would in an editor."""
    path = checkout / "slurm" / "env.sh"
    text = path.read_text(encoding="utf-8")
    for name, value in settings.items():
        text, count = re.subn(rf"^{name}=('[^']*'|\S*)", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(text, encoding="utf-8")


def write_text(folder: Path) -> None:
    """Write a few training shards and a held-out one: of C4 if available, else of Python's documentation."""
    if not C4.exists():
        write_pydoc_corpus(folder, train_shards=SHARDS)
        return
    lines = gzip.decompress(C4.read_bytes()).splitlines(keepends=True)
    folder.mkdir()
    for number in range(SHARDS):
        name = f"c4-train.{number:05d}-of-{SHARDS:05d}.json.gz"
        (folder / name).write_bytes(gzip.compress(b"".join(lines[number::10])))
    (folder / "c4-validation.00000-of-00001.json.gz").write_bytes(gzip.compress(b"".join(lines[9::10])))


def prepare_data(checkout: Path, **settings: Any) -> None:
    """Make the tokenizer and the dataset of a pretraining, without a job; ``settings`` are those of preprocessing."""
    text, work = checkout.parent / "c4", checkout.parent / "work"
    files = (f"{text}/*-train.*",)
    train_tokenizer(TokenizerConfig(input=files, output=work / "tokenizer", vocab_size=512))
    config = preprocess_config(
        input=files,
        tokenizer=work / "tokenizer",
        output=work / "data" / "pause-merged",
        seq_length=SEQ_LENGTH,
        engine="serial",
        **settings,
    )
    preprocess(config)
