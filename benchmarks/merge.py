#!/usr/bin/env python
"""Merging shards into one dataset: ``pause-megatron merge-datasets`` against Megatron-core's IndexedDatasetBuilder.

    python benchmarks/merge.py --work work

All candidates merge sixteen shards, in turn, once with a quarter of the documents and once with all. The figures are
the processor time and memory per document of the other three quarters. The results are compared byte by byte. Documents
are as long as C4's, where copying token ids is part of the cost, or very short, where only the index matters.
"""

from __future__ import annotations

import filecmp
import hashlib
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measure
from measure import CommandError, Cost, Spread

SHARDS = 16
PART = 4
"""The small dataset has one PART-th of the documents."""
MERGED = "merged"
"""Name of the merged files that ``merge-datasets`` writes."""
OURS, THEIRS, CAT = "merge-datasets", "IndexedDatasetBuilder", "cat"


def _merge_ours(shards: Path, output: Path, log: Path) -> Cost:
    return measure.run_measured(
        [sys.executable, "-m", "pause_megatron", "merge-datasets", "--input", shards, "--output", output], log
    )


def _merge_theirs(shards: Path, output: Path, log: Path) -> Cost:
    output.mkdir()
    seconds = output / "import-seconds"
    cost = measure.run_measured([sys.executable, __file__, "build", seconds, output / MERGED, *_prefixes(shards)], log)
    return replace(cost, import_seconds=float(seconds.read_text(encoding="utf-8")))


def _concatenate(shards: Path, output: Path, log: Path) -> Cost:
    output.mkdir()
    join = 'target=$1; shift; exec cat "$@" > "$target"'
    return measure.run_measured(
        ["sh", "-c", join, "sh", output / "bin", *(f"{prefix}.bin" for prefix in _prefixes(shards))], log
    )


CANDIDATES: dict[str, Callable[[Path, Path, Path], Cost]] = {
    OURS: _merge_ours,
    THEIRS: _merge_theirs,
    CAT: _concatenate,
}
_Run = dict[str, tuple[Cost, Cost]]
"""Candidate to its cost on the small and on the large dataset."""


def _prefixes(folder: Path) -> list[Path]:
    return [path.with_suffix("") for path in sorted(folder.glob("*.bin"))]


def build(seconds: Path, output: str, shards: list[str]) -> None:
    """Merge as Megatron-LM's ``tools/merge_datasets.py`` does, and write the seconds of the imports to a file."""
    warnings.simplefilter("ignore")
    import numpy as np
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    seconds.write_text(str(time.process_time()), encoding="utf-8")
    builder = IndexedDatasetBuilder(f"{output}.bin", dtype=np.uint16)
    for shard in shards:
        builder.add_index(shard)
    builder.finalize(f"{output}.idx")


def make_shards(folder: Path, documents: int, mean_tokens: int) -> None:
    """Write a dataset of random ids; the cost of merging does not depend on the ids."""
    import numpy as np

    from pause_megatron.preprocess.dataset_manifest import DATASET_FILE, DatasetManifest, ShardManifest
    from pause_megatron.preprocess.indexed_files import index_bytes
    from pause_megatron.records.files import write_record

    random = np.random.default_rng(1234)
    ids = random.integers(3, 32_000, size=documents // SHARDS * mean_tokens * 2, dtype=np.uint16)
    folder.mkdir(parents=True)
    shards = []
    for index in range(SHARDS):
        lengths = random.integers(1, 2 * mean_tokens, size=documents // SHARDS, dtype=np.int32)
        content, idx = ids[: int(lengths.sum())].tobytes(), index_bytes(lengths, ids.dtype)
        name = f"shard.{index:05d}"
        (folder / f"{name}.bin").write_bytes(content)
        (folder / f"{name}.idx").write_bytes(idx)
        none = dict.fromkeys(("input_bytes", "empty_documents", "skipped_records", "pauses"), 0)
        none |= dict.fromkeys(("trimmed_tokens", "tail_tokens"), 0)
        counts = {"documents": len(lengths), "sequences": len(lengths), "tokens": len(content) // 2, **none}
        files = {"bin_bytes": len(content), "idx_bytes": len(idx)}
        hashes = {f"{kind}_sha256": hashlib.sha256(data).hexdigest() for kind, data in (("bin", content), ("idx", idx))}
        no_pauses = {"skipped": (), "pause_fraction": 0.0, "pause_runs": {}}
        shards.append(ShardManifest(name=name, index=index, input=name, **counts, **files, **hashes, **no_pauses))
    settings = {"strategy": "document", "pause_rate": 0.1, "pauses_per_token": 0, "gaps": "repeat", "trimmed": "carry"}
    ids_of = {"vocab_size": 32_000, "pause_id": 2, "eod_id": 1, "seq_length": 0, "seed": 1234}
    texts = {"text_key": "text", "tokenizer_sha256": "", "encoder": "sentencepiece"}
    manifest = DatasetManifest(**settings, **ids_of, **texts, shards=tuple(shards), versions={})
    write_record(folder / DATASET_FILE, manifest)


def main() -> None:
    """Measure and print the table."""
    parser = measure.new_parser(__doc__, repeats=3)
    parser.add_argument("--documents", type=int, default=2_000_000, help="documents (default: two million)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[427, 4], help="tokens per document (default: 427 4)")
    arguments = parser.parse_args()
    measure.require_at_least(SHARDS * PART, arguments, "documents")
    measure.require_at_least(1, arguments, "repeats")
    load, rows, found = measure.load_now(), [], {}
    for tokens in arguments.tokens:
        folder = arguments.work / "merge"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            for name, share in (("small", PART), ("large", 1)):
                words = [folder / name, arguments.documents // share, tokens]
                subprocess.run([sys.executable, __file__, "make", *map(str, words)], check=True)
            runs = [_measure(folder, repeat) for repeat in range(arguments.repeats)]
        except CommandError as error:
            raise SystemExit(str(error)) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        rows += [_row(who, tokens, arguments.documents - arguments.documents // PART, runs) for who in CANDIDATES]
        found[tokens] = [{who: list(map(vars, pair)) for who, pair in run.items()} for run in runs]
    measure.save_table(
        arguments.work,
        "merging",
        title="Merging",
        text=f"{arguments.documents / 1e6:g} million documents in {SHARDS} shards, without the cost of a quarter; "
        f"{arguments.repeats} repeats. Median (lowest-highest) per further document; the merged files are equal. `cat` "
        "only joins the .bin files, which both others do too.",
        header=["", "tokens per document", "ns of processor time", "bytes of memory"],
        rows=rows,
        load=load,
        measurements=found,
    )


def _measure(folder: Path, repeat: int) -> _Run:
    runs: _Run = {}
    for who in measure.in_turn(CANDIDATES, repeat):
        costs = []
        for size in ("small", "large"):
            shutil.rmtree(folder / who, ignore_errors=True)
            costs.append(CANDIDATES[who](folder / size, folder / who, folder / "log"))
        runs[who] = (costs[0], costs[1])
    for suffix in (".bin", ".idx"):
        ours, theirs = (folder / who / f"{MERGED}{suffix}" for who in (OURS, THEIRS))
        measure.require(filecmp.cmp(ours, theirs, shallow=False), f"{ours} and {theirs} differ")
    return runs


def _row(who: str, tokens: int, more: int, runs: list[_Run]) -> list[str]:
    pairs = [run[who] for run in runs]
    nanoseconds = Spread.of((large.work_seconds - small.work_seconds) / more * 1e9 for small, large in pairs)
    memory = Spread.of((large.peak_bytes - small.peak_bytes) / more for small, large in pairs)
    return [who, str(tokens), nanoseconds.show(digits=0), memory.show(digits=1)]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build", seconds, output, *shards]:
            build(Path(seconds), output, shards)
        case ["make", folder, documents, mean_tokens]:
            make_shards(Path(folder), int(documents), int(mean_tokens))
        case _:
            main()
