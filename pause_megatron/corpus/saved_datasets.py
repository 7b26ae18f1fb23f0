"""Sources of folders written by ``datasets.save_to_disk``: one for each Arrow file.

The files are Arrow streams. They are memory-mapped and read one record batch at a time, so other columns are never
loaded. pyarrow is imported when the first file is read; ``datasets`` is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pause_megatron.corpus.columns import ColumnSource
from pause_megatron.errors import UserError
from pause_megatron.records.files import path_beside, read_json

if TYPE_CHECKING:
    import pyarrow

_STATE_FILE = "state.json"
_SPLITS_FILE = "dataset_dict.json"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowSource(ColumnSource):
    """One data file of a saved dataset."""

    def _columns(self, text_key: str) -> Iterator[pyarrow.Array]:
        import pyarrow

        with pyarrow.memory_map(self.location) as file:
            reader = pyarrow.ipc.open_stream(file)
            self._require_column(text_key, reader.schema.names)
            for batch in reader:
                yield batch.column(text_key)
            file.seek(max(file.size() - len(_END_OF_STREAM), 0))
            if file.read() != _END_OF_STREAM:  # pyarrow accepts a file that is cut between two batches
                raise pyarrow.ArrowInvalid("the file ends too early")


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``datasets.save_to_disk`` wrote ``folder``, with one split or several."""
    return (folder / _STATE_FILE).is_file() or (folder / _SPLITS_FILE).is_file()


def saved_dataset_sources(folder: Path) -> list[ArrowSource]:
    """Data files of the saved dataset ``folder``.

    Raises :class:`UserError` if it contains several splits, no documents, or not all its files.
    """
    if (folder / _SPLITS_FILE).is_file():
        splits = [path_beside(folder / _SPLITS_FILE, name) for name in _listed(folder / _SPLITS_FILE, "splits")]
        names = ", ".join(split.name for split in splits)
        raise UserError(f"{folder}: contains the splits {names}; give one" + f", e.g. {splits[0]}" * bool(splits))
    files = [path_beside(folder / _STATE_FILE, name) for name in _listed(folder / _STATE_FILE, "_data_files")]
    if not files:
        raise UserError(f"{folder}: the dataset is empty; leave it out")
    if missing := [path.name for path in files if not path.is_file()]:
        raise UserError(f"{folder}: {missing[0]} is missing, but listed in {_STATE_FILE}; copy the complete folder")
    return [
        ArrowSource(name=f"{folder.resolve().name}-{path.stem}", location=str(path), size_bytes=path.stat().st_size)
        for path in files
    ]


def _listed(path: Path, key: str) -> list[Any]:
    """Return the list ``key`` of the JSON file ``path``: names, or objects with a ``filename``."""
    values = read_json(path)
    listed = values.get(key) if isinstance(values, dict) else None
    if not isinstance(listed, list):
        raise UserError(f"{path}: expected an object with the list '{key}'; copy the complete folder again")
    return [item.get("filename") if isinstance(item, dict) else item for item in listed]
