"""Sources of folders written by ``datasets.save_to_disk``: one for each Arrow file.

The files are Arrow streams. They are memory-mapped and read one record batch at a time, so other columns are never
loaded. pyarrow is imported when the first file is read; ``datasets`` is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pause_megatron.corpus.columns import ColumnSource
from pause_megatron.errors import UserError

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
        splits = json.loads((folder / _SPLITS_FILE).read_text(encoding="utf-8"))["splits"]
        raise UserError(f"{folder}: contains the splits {', '.join(splits)}; give one, e.g. {folder / splits[0]}")
    state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
    files = [folder / file["filename"] for file in state["_data_files"]]
    if not files:
        raise UserError(f"{folder}: the dataset is empty; leave it out")
    if missing := [path.name for path in files if not path.is_file()]:
        raise UserError(f"{folder}: {missing[0]} is missing, but listed in {_STATE_FILE}; copy the complete folder")
    return [
        ArrowSource(name=f"{folder.resolve().name}-{path.stem}", location=str(path), size_bytes=path.stat().st_size)
        for path in files
    ]
