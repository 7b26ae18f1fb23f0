"""A dataset folder of ``tools/preprocess_c4.py`` as training samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset

from pause_megatron.errors import UserError
from pause_megatron.preprocess.manifest import DatasetManifest, load_dataset_manifest
from pause_megatron.tokenizer import PauseTokenizer


class SequenceDataset:
    """The stored sequences of all shards; sample ``i`` is stored sequence ``i``, never a mixture of two.

    The target of a position is the token after it. The target of a sequence's last position is the first token of the
    stored sequence that continues it; where the text is not continued (the end of a shard, or a dropped tail) it is
    ``<pause>``, whose loss is dropped as every pause's.
    """

    def __init__(self, folder: Path) -> None:
        """Open the dataset in ``folder``. Raises :class:`UserError` when it is missing or incomplete."""
        self.folder = folder
        self.manifest: DatasetManifest = load_dataset_manifest(folder)
        self._shards = [IndexedDataset(str(folder / shard.name)) for shard in self.manifest.shards if shard.sequences]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        if not self._shards:
            raise UserError(
                f"{folder}: the dataset has no sequence of {self.manifest.seq_length} tokens; give more text"
            )

    def __len__(self) -> int:
        """Number of sequences."""
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels of sample ``index``, each int64 ``[seq_length]``."""
        shard_index = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self._shards[shard_index]
        local = index - int(self._starts[shard_index])
        tokens = shard[local].astype(np.int64)
        continued = self.manifest.trimmed == "carry" and local + 1 < len(shard)
        after = int(shard.get(local + 1, 0, 1)[0]) if continued else self.manifest.pause_id
        return tokens, np.append(tokens[1:], after)

    def check_tokenizer(self, tokenizer: PauseTokenizer) -> None:
        """Raise :class:`UserError` unless the dataset was written with ``tokenizer``."""
        if self.manifest.tokenizer_sha256 != tokenizer.sha256:
            raise UserError(
                f"{self.folder} was written with another tokenizer than --tokenizer {tokenizer.path}"
                f" (sha256 {self.manifest.tokenizer_sha256[:12]} and {tokenizer.sha256[:12]})"
            )
