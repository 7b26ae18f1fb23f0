"""Damaged dataset files are refused with one line before the first step, by every rank."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from pause_megatron.config.blend import BlendComponent
from pause_megatron.config.dataset import MergeDatasetsConfig
from pause_megatron.data.data_folders import check_training_folders
from pause_megatron.data.verified_files import verify_files
from pause_megatron.errors import UserError
from pause_megatron.preprocess.merge import merge_datasets
from pause_megatron.tokenizer import PauseTokenizer
from tests.chain import SEQ_LENGTH
from tests.data.datasets import Datasets
from tests.distributed import run_distributed

KINDS_OF_DAMAGE = ("flip", "zeros", "cut", "hostile size")
FILES = ("merged.bin", "merged.idx", "dataset.json")
SIZE_FIELDS = {"merged.idx": (18, 26)}
"""First bytes of the 64-bit numbers that give sizes: sequences and document boundaries of an index."""


@pytest.fixture(scope="module")
def merged(datasets: Datasets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer and two datasets of one pair of files each: sequences, and documents."""
    folder = tmp_path_factory.mktemp("merged")
    (folder / "tokenizer").symlink_to(datasets.folder / "tokenizer")
    for name in ("sequence", "document"):
        merge_datasets(MergeDatasetsConfig(input=(datasets.folder / name,), output=folder / name))
    return folder


@cache
def load_tokenizer(folder: Path) -> PauseTokenizer:
    return PauseTokenizer.load(folder)


def read_as_pretrain_does(folder: Path, *, tokens: bool, is_stopping: bool = False) -> None:
    """Check the dataset ``folder`` as far as a run does before its first step."""
    found = check_training_folders(
        [BlendComponent(folder=folder, weight=None)],
        load_tokenizer(folder.parent / "tokenizer"),
        seq_length=0,
        max_position_embeddings=SEQ_LENGTH,
    )
    verify_files(found, tokens=tokens, is_stopping=lambda: is_stopping)


def damaged(content: bytes, kind: str, name: str, draw: random.Random) -> bytes:
    """Return ``content``, that of the file ``name``, with one random damage; it is never equal to the original."""
    changed = bytearray(content)
    if kind == "flip":
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "zeros":
        start = draw.randrange(len(content) - 8)
        changed[start:] = bytes(len(content) - start)
    elif kind == "cut":
        del changed[draw.randrange(len(content) - 1) :]  # dataset.json is complete without its last line end
    else:
        start = draw.choice(SIZE_FIELDS[name])
        changed[start : start + 8] = draw.choice((0, 2**31, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little")
    assert changed != content
    return bytes(changed)


def refusals(merged: Path, draws: int) -> Counter[tuple[str, str, str]]:
    """Damage every file in every way, ``draws`` times, and count the outcomes by file, kind and outcome."""
    dist.init_process_group("gloo")
    counts: Counter[tuple[str, str, str]] = Counter()
    draw = random.Random(20261128)
    for dataset in ("sequence", "document"):
        read_as_pretrain_does(merged / dataset, tokens=True)
        for name in FILES:
            path = merged / dataset / name
            original = path.read_bytes()
            for kind in KINDS_OF_DAMAGE if name in SIZE_FIELDS else KINDS_OF_DAMAGE[:-1]:
                for _ in range(draws):
                    path.write_bytes(damaged(original, kind, name, draw))
                    counts[name, kind, outcome(path)] += 1
            path.write_bytes(original)
    return counts


def outcome(path: Path) -> str:
    """Return how a run would answer the damage to ``path``."""
    try:
        read_as_pretrain_does(path.parent, tokens=True)
    except UserError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else f"unclear: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "silent"


@pytest.mark.parametrize("draws", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_each_damage_to_each_file_is_refused_with_one_line(merged: Path, draws: int) -> None:
    [counts] = run_distributed(refusals, 1, merged, draws)
    print("\n" + "\n".join(f"{name:<14}{kind:<14}{number:>5} {how}" for (name, kind, how), number in counts.items()))
    assert {how for _, _, how in counts} == {"refused"}
    assert sum(counts.values()) == 2 * draws * (3 * len(FILES) + len(SIZE_FIELDS))


def errors_on_this_rank(cases: list[dict[str, Any]]) -> list[str]:
    dist.init_process_group("gloo")
    errors = []
    for case in cases:
        try:
            read_as_pretrain_does(**case)
            errors.append("")
        except UserError as error:
            errors.append(str(error))
    return errors


def test_every_rank_raises_the_error_that_one_found(datasets: Datasets, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(datasets.folder / "tokenizer")
    damaged_files = []
    for suffix in (".idx", ".bin"):
        folder = shutil.copytree(datasets.folder / "sequence", tmp_path / suffix[1:])
        path = sorted(folder.glob(f"*{suffix}"))[1]  # of three: rank 1 compares it
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        damaged_files.append(path)
    index, tokens = damaged_files
    cases = [
        {"folder": index.parent, "tokens": False},
        {"folder": tokens.parent, "tokens": True},
        {"folder": tokens.parent, "tokens": False},  # tokens are compared on request only
        {"folder": tokens.parent, "tokens": True, "is_stopping": True},
    ]
    first, second = run_distributed(errors_on_this_rank, 2, cases)
    assert first == second
    assert first[0].startswith(f"{index}: its SHA-256 is not the manifest's")
    assert first[1].startswith(f"{tokens}: the SHA-256 of bytes 0 to {tokens.stat().st_size} is not the manifest's")
    assert first[2:] == ["", ""]
