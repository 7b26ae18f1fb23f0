"""Merges with Megatron-core: ``python merge_with_builder.py IMPORT_SECONDS_FILE OUTPUT_PREFIX SHARD_PREFIX ...``.

What Megatron-LM's ``tools/merge_datasets.py`` does: ``add_index`` for every shard, then ``finalize``. The processor
time of importing torch and Megatron-core is written to the file named first.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path


def main() -> None:
    """Merge."""
    warnings.simplefilter("ignore")
    import numpy as np
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    importing, output, *shards = sys.argv[1:]
    Path(importing).write_text(str(time.process_time()), encoding="utf-8")
    builder = IndexedDatasetBuilder(f"{output}.bin", dtype=np.uint16)
    for shard in shards:
        builder.add_index(shard)
    builder.finalize(f"{output}.idx")


if __name__ == "__main__":
    main()
