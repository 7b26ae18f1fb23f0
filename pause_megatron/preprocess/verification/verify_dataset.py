"""``pause-megatron verify-dataset``: plans the checks, runs them in worker processes, and prints the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from pause_megatron import log
from pause_megatron.children import available_cores
from pause_megatron.config.dataset import VerifyDatasetConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, read_dataset_manifest, stored_files
from pause_megatron.preprocess.executors import new_process_pool
from pause_megatron.preprocess.inspection.inspect_dataset import manifest_rows
from pause_megatron.preprocess.shard_spans import ShardSpan, spans_of
from pause_megatron.preprocess.verification.faults import Faults
from pause_megatron.preprocess.verification.index_checks import check_file
from pause_megatron.preprocess.verification.manifest_checks import check_settings, find_twins
from pause_megatron.preprocess.verification.shard_checks import check_shard

_SECONDS_BETWEEN_MESSAGES = 10

Check = Callable[[], Faults]


def verify_dataset(config: VerifyDatasetConfig) -> None:
    """Check the dataset ``config.data`` and print a table, or one line for each fault.

    Raises :class:`UserError` when there are faults, and when there is nothing to check or to compare with.
    """
    manifest = read_dataset_manifest(config.data)
    faults = list(check_settings(config.data, manifest).lines())
    compared = 0
    if not faults:
        for found in run_checks(_plan(config, manifest), config.workers):
            faults += found.lines()
            compared += found.compared_tokens
    if faults:
        print("\n".join(faults), flush=True)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError(f"{config.data}: {count}; repair or rewrite the dataset before you train on it")
    print("\n".join(f"{name:<18}{value}" for name, value in _summary(config, manifest, compared)))


def _plan(config: VerifyDatasetConfig, manifest: DatasetManifest) -> list[Check]:
    settings, spans = manifest.settings, spans_of(config.data, manifest)
    twins: Sequence[ShardSpan | None] = [None] * len(spans)
    if config.standard is not None:
        twins = find_twins(config.standard, manifest, spans)
    checks: list[Check] = [
        partial(check_file, config.data, file, settings, config.hashes) for file in stored_files(manifest)
    ]
    for span, twin in zip(spans, twins, strict=True):
        checks.append(partial(check_shard, span, settings, bool(manifest.merged), twin, config.hashes))
    return checks


def run_checks(checks: Sequence[Check], workers: int) -> Iterator[Faults]:
    """Yield the faults of each check, in order. Raises :class:`UserError` when a worker process is killed."""
    workers = min(workers or available_cores(), len(checks))
    if workers == 1:
        yield from _with_progress((check() for check in checks), len(checks))
        return
    try:
        with new_process_pool(workers) as pool:
            yield from _with_progress(pool.map(_call, checks), len(checks))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed (out of memory?), so not everything was checked; rerun with fewer --workers"
        ) from error


def _call(check: Check) -> Faults:
    return check()


def _with_progress(found: Iterator[Faults], count: int) -> Iterator[Faults]:
    logged = time.monotonic()
    for done, faults in enumerate(found, start=1):
        if time.monotonic() - logged > _SECONDS_BETWEEN_MESSAGES:
            logged = time.monotonic()
            log.info(f"{done} of {count} checks done")
        yield faults


def _summary(config: VerifyDatasetConfig, manifest: DatasetManifest, compared: int) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table: name and value."""
    yield from manifest_rows(config.data, manifest)
    size = sum(file.bin_bytes + file.idx_bytes for file in stored_files(manifest))
    yield "verified", f"no faults in {size / 1e9:.3f} GB; hashes {'equal' if config.hashes else 'not compared'}"
    if config.standard is not None:
        yield "standard", f"{compared:,} real tokens equal to those of {config.standard}"
