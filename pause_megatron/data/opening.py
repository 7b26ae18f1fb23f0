"""Opens checked folders, in every process of a run alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pause_megatron.data.document_index import CachedIndex, ensure_indices
from pause_megatron.data.documents import open_documents
from pause_megatron.data.folders import DataFolder
from pause_megatron.data.samples import Samples
from pause_megatron.data.sequences import SequenceDataset
from pause_megatron.parallel.launcher import Launch


def open_folders(folders: Sequence[DataFolder], *, seed: int | None, cache: Path, launch: Launch) -> list[Samples]:
    """The samples of each folder. To be called in every process of the group.

    ``seed`` decides the order in which documents are packed; None packs them as they are stored. Raises
    :class:`UserError` in every process when an index can be neither found in ``cache`` nor built.
    """
    indices = [
        CachedIndex(cache, folder, seed) if folder.manifest.strategy == "document" else None for folder in folders
    ]
    ensure_indices([index for index in indices if index], launch)
    return [
        open_documents(folder, index.path) if index else SequenceDataset(folder)
        for folder, index in zip(folders, indices, strict=True)
    ]
