"""Reader of the weights in a Hugging Face folder, from the files that transformers reads."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pause_megatron import log
from pause_megatron.errors import UserError, system_error
from pause_megatron.records.files import path_beside, read_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Names the file of each tensor, if a model has several files."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights that are not quantized, as safetensors names them."""
_INTEGERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
"""Types that a buffer may have, such as an attention mask, but not a weight. Others, such as F8_E4M3, are refused."""


class StoredWeights:
    """Tensors of a folder's safetensors files, read one at a time.

    The files are those of the index, or ``model.safetensors``. Others are named in a warning and ignored, as
    transformers does.

    Raises :class:`UserError` if there are no such files, if one is damaged, does not belong to the index or leaves the
    folder, or if it has a tensor of a quantized type.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        self._types: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        files = _files_of(folder)
        for path, names in files.items():
            self._add(path)
            if names is not None and (wrong := names ^ {name for name, file in self._files.items() if file == path}):
                where = "is not in this file, which the index names" if min(wrong) in names else "is not in the index"
                raise UserError(f"{path}: tensor {min(wrong)} {where}; fetch the model again")
        strays = sorted(path.name for path in folder.glob("*.safetensors") if path not in files)
        if strays:
            log.warn(f"{folder}: ignoring {', '.join(strays)}, as transformers does; the model is in the other files")

    def _add(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                self._types |= {name: stored.get_dtype() for name, stored in slices.items()}
                self._shapes |= {name: tuple(stored.get_shape()) for name, stored in slices.items()}
        except (OSError, SafetensorError) as error:
            if refused := system_error(error, path):
                raise refused from error
            raise UserError(f"{path}: damaged ({error}); fetch the file again") from error
        if twice := self._files.keys() & slices.keys():
            raise UserError(f"{path}: tensor {min(twice)} is also in {self._files[min(twice)].name}; remove one file")
        self._files |= dict.fromkeys(slices, path)
        for name in slices:
            if self._types[name] not in (*FLOATS, *_INTEGERS):
                raise self._quantized(name)

    @property
    def parameters(self) -> int:
        """Number of stored weights; tensors of integers are buffers and do not count."""
        return sum(math.prod(shape) for name, shape in self._shapes.items() if self._types[name] in FLOATS)

    def require_layers(self, count: int) -> None:
        """Raise :class:`UserError` if there are fewer tensors than layers, before a model of absurd size is built."""
        if count > len(self._files):
            raise UserError(
                f"{self._folder / 'config.json'}: {count} layers, but only {len(self._files)} tensors in the"
                " safetensors files; fetch the model again"
            )

    def __call__(self, name: str) -> torch.Tensor:
        """Read the tensor ``name``, with the dtype it is stored in.

        GPT-2 files often lack the output layer, and then also the prefix ``transformer.`` of all names. Raises
        :class:`UserError` if there is no such tensor, or if it is quantized.
        """
        found = self._stored_name(name)
        if found is None:
            raise UserError(f"{self._folder}: no tensor {name} in its safetensors files; fetch the model again")
        if self._types[found] not in FLOATS:
            raise self._quantized(found)
        with safe_open(self._files[found], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(found)
        return tensor

    def check(self, parameters: dict[str, tuple[int, ...]]) -> None:
        """Raise :class:`UserError` unless all ``parameters`` are there, with these shapes, and not quantized."""
        for name, shape in parameters.items():
            found = self._stored_name(name)
            if found is None:
                raise UserError(f"{self._folder}: no tensor {name} in its safetensors files; fetch the model again")
            if self._shapes[found] != shape:
                raise UserError(
                    f"{self._files[found]}: tensor {found} has shape {list(self._shapes[found])}, but by config.json"
                    f" {list(shape)}; fetch the model again"
                )
        self.refuse_quantized(parameters)

    def refuse_quantized(self, parameters: Any) -> None:
        """Raise :class:`UserError` if one of these parameters is stored as integers. Buffers may be."""
        for name in parameters:
            found = self._stored_name(name)
            if found is not None and self._types[found] not in FLOATS:
                raise self._quantized(found)

    def _stored_name(self, name: str) -> str | None:
        return next((known for known in (name, name.partition(".")[2]) if known in self._files), None)

    def _quantized(self, name: str) -> UserError:
        return UserError(
            f"{self._files[name]}: tensor {name} has the type {self._types[name]}, so the model is quantized; give the"
            f" model with weights of type {', '.join(FLOATS[1:])}"
        )


def _files_of(folder: Path) -> dict[Path, set[str] | None]:
    """Return the files with the weights, and the names of the tensors in each file if there is an index."""
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if not index.is_file():
        if not single.is_file():
            raise UserError(
                f"{folder}: no {WEIGHTS_FILE} or {INDEX_FILE}, and pickled weights are not supported; save the model"
                " with save_pretrained of transformers first"
            )
        return {single: None}
    if single.is_file():
        raise UserError(f"{folder}: both {WEIGHTS_FILE} and {INDEX_FILE}; remove the one that is not the model's")
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no weight_map from tensors to files; fetch the file again")
    files: dict[Path, set[str] | None] = {}
    for tensor, name in weight_map.items():
        path = path_beside(index, name)
        if path.suffix != ".safetensors":
            raise UserError(f"{index}: {name} is not a safetensors file; save the model with save_pretrained first")
        tensors = files.setdefault(path, set())
        assert tensors is not None
        tensors.add(tensor)
    return files
