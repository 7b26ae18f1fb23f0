"""Weights are read from the files that transformers reads; other files are ignored, and quantized weights refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pause_megatron.conversion.stored_weights import INDEX_FILE, WEIGHTS_FILE, StoredWeights
from pause_megatron.errors import UserError

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write(folder: Path, name: str = WEIGHTS_FILE, **tensors: torch.Tensor) -> None:
    save_file(tensors, folder / name, metadata={"format": "pt"})


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_parts(folder: Path) -> None:
    write(folder, PARTS[0], a=torch.zeros(2))
    write(folder, PARTS[1], b=torch.ones(3, dtype=torch.bfloat16))
    write_index(folder, {"a": PARTS[0], "b": PARTS[1]})


@pytest.mark.parametrize("has_index", [True, False])
def test_stray_files_are_named_and_ignored(has_index: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if has_index:
        write_parts(tmp_path)
    else:
        write(tmp_path, a=torch.zeros(2), b=torch.ones(3))
    write(tmp_path, "zz-last.safetensors", a=torch.full((2,), 7.0), c=torch.ones(1))
    write(tmp_path, "consolidated.safetensors", a=torch.full((2,), 8.0))
    stored = StoredWeights(tmp_path)
    assert (stored("a").tolist(), stored("b").tolist()) == ([0, 0], [1, 1, 1])
    assert "ignoring consolidated.safetensors, zz-last.safetensors" in capsys.readouterr().err
    with pytest.raises(UserError, match="no tensor c in its safetensors files"):
        stored("c")


QUANTIZED = {
    "fp8": torch.float8_e4m3fn,
    "fp8 scale exponents": torch.float8_e8m0fnu,
    "int8": torch.int8,
    "packed in bytes": torch.uint8,
    "packed in words": torch.int32,
}


@pytest.mark.parametrize("dtype", QUANTIZED.values(), ids=QUANTIZED)
def test_quantized_weights_are_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    write(tmp_path, a=torch.zeros(2), weight=torch.ones(3, 4).to(dtype))
    for use in (
        lambda: StoredWeights(tmp_path)("weight"),
        lambda: StoredWeights(tmp_path).refuse_quantized(["a", "weight"]),
        lambda: StoredWeights(tmp_path).check({"weight": (3, 4)}),
    ):
        with pytest.raises(UserError, match=r"tensor weight has the type \w+, so the model is quantized"):
            use()


def test_buffers_of_integers_are_no_weights(tmp_path: Path) -> None:
    """Files of GPT-2 hold attention masks."""
    write(tmp_path, weight=torch.zeros(2, 3), mask=torch.ones(4, 4, dtype=torch.uint8))
    StoredWeights(tmp_path).check({"weight": (2, 3)})


@pytest.mark.parametrize("stored", ["h.0.weight", "transformer.h.0.weight"])
def test_names_may_lack_the_prefix(stored: str, tmp_path: Path) -> None:
    write(tmp_path, **{stored: torch.zeros(2, 3)})
    StoredWeights(tmp_path).check({"transformer.h.0.weight": (2, 3)})
    with pytest.raises(UserError, match=r"h.0.weight has shape \[2, 3\], but by config.json \[3, 2\]"):
        StoredWeights(tmp_path).check({"transformer.h.0.weight": (3, 2)})
    with pytest.raises(UserError, match=r"no tensor transformer.h.1.weight in its safetensors files"):
        StoredWeights(tmp_path).check({"transformer.h.1.weight": (2, 3)})


def cut(folder: Path) -> None:
    path = folder / PARTS[1]
    path.write_bytes(path.read_bytes()[:-1])


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: [path.unlink() for path in folder.iterdir()], "no model.safetensors or"),
    "both": (lambda folder: write(folder, a=torch.zeros(2)), "both model.safetensors and model.safetensors.index.json"),
    "cut file": (cut, rf"{PARTS[1]}: damaged"),
    "missing file": (lambda folder: (folder / PARTS[1]).unlink(), rf"{PARTS[1]}: damaged .*[Nn]o such file"),
    "missing tensor": (
        lambda folder: write_index(folder, {"a": PARTS[0], "b": PARTS[1], "c": PARTS[0]}),
        rf"{PARTS[0]}: tensor c is not in this file, which the index names",
    ),
    "unlisted tensor": (
        lambda folder: write(folder, PARTS[1], b=torch.ones(3), d=torch.ones(1)),
        rf"{PARTS[1]}: tensor d is not in the index",
    ),
    "twice": (
        lambda folder: write(folder, PARTS[1], a=torch.ones(2), b=torch.ones(3)),
        rf"{PARTS[1]}: tensor a is also in {PARTS[0]}",
    ),
    "other file": (
        lambda folder: write_index(folder, {"a": PARTS[1], "b": PARTS[1]}),
        rf"{PARTS[1]}: tensor a is not in this file",
    ),
    "above": (lambda folder: write_index(folder, {"a": f"../{PARTS[0]}"}), "which is not in its folder"),
    "absolute": (lambda folder: write_index(folder, {"a": f"{folder}/{PARTS[0]}"}), "which is not in its folder"),
    "below": (lambda folder: write_index(folder, {"a": f"sub/{PARTS[0]}"}), "which is not in its folder"),
    "no name": (lambda folder: write_index(folder, {"a": 3}), "lists the file 3, which is not in its folder"),
    "pickle": (lambda folder: write_index(folder, {"a": "pytorch_model.bin"}), "is not a safetensors file"),
    "no map": (lambda folder: write_index(folder, ["a"]), "no weight_map from tensors to files"),
    "not JSON": (lambda folder: (folder / INDEX_FILE).write_text("{"), "not complete JSON"),
}


@pytest.mark.parametrize(("damage", "complaint"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_folders_whose_weights_are_in_doubt_are_refused(
    damage: Callable[[Path], object], complaint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_parts(folder)
    write(tmp_path, PARTS[0], a=torch.full((2,), 9.0))  # outside the folder
    damage(folder)
    with pytest.raises(UserError, match=complaint):
        StoredWeights(folder)
