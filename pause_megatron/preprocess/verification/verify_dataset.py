"""``pause-megatron verify-dataset``: plans the checks, runs them in worker processes, and prints the result."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from operator import call

from pause_megatron import log
from pause_megatron.children import available_cores
from pause_megatron.config.dataset import VerifyDatasetConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, read_dataset_manifest, stored_files
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.executors import new_process_pool
from pause_megatron.preprocess.indexed_files import IndexFile, token_dtype
from pause_megatron.preprocess.inspection.inspect_dataset import manifest_rows
from pause_megatron.preprocess.shard_spans import ShardSpan, spans_of
from pause_megatron.preprocess.token_blocks import read_blocks, sha256_of
from pause_megatron.preprocess.verification.faults import Faults
from pause_megatron.preprocess.verification.index_checks import check_file, check_index, check_own_index
from pause_megatron.preprocess.verification.manifest_checks import check_entry, check_settings, find_twins
from pause_megatron.preprocess.verification.replay import Replay

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
    size = sum(file.bin_bytes + file.idx_bytes for file in stored_files(manifest))
    verified = f"no faults in {size / 1e9:.3f} GB; hashes {'equal' if config.hashes else 'not compared'}"
    rows = [*manifest_rows(config.data, manifest), ("verified", verified)]
    if config.standard is not None:
        rows.append(("standard", f"{compared:,} real tokens equal to those of {config.standard}"))
    print("\n".join(f"{name:<18}{value}" for name, value in rows))


def _plan(config: VerifyDatasetConfig, manifest: DatasetManifest) -> list[Check]:
    settings, spans = manifest.settings, spans_of(config.data, manifest)
    twins: Sequence[ShardSpan | None] = [None] * len(spans)
    if config.standard is not None:
        twins = find_twins(config.standard, manifest, spans)
    checks: list[Check] = [
        partial(check_file, config.data, file, settings, config.hashes) for file in stored_files(manifest)
    ]
    for span, twin in zip(spans, twins, strict=True):
        checks.append(partial(_check_shard, span, settings, bool(manifest.merged), twin, config.hashes))
    return checks


def run_checks(checks: Sequence[Check], workers: int) -> Iterator[Faults]:
    """Yield the faults of each check, in order. Raises :class:`UserError` when a worker process is killed."""
    workers = min(workers or available_cores(), len(checks))
    if workers == 1:
        yield from _with_progress((check() for check in checks), len(checks))
        return
    try:
        with new_process_pool(workers) as pool:
            yield from _with_progress(pool.map(call, checks), len(checks))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed (out of memory?), so not everything was checked; rerun with fewer --workers"
        ) from error


def _with_progress(found: Iterator[Faults], count: int) -> Iterator[Faults]:
    logged = time.monotonic()
    for done, faults in enumerate(found, start=1):
        if time.monotonic() - logged > _SECONDS_BETWEEN_MESSAGES:
            logged = time.monotonic()
            log.info(f"{done} of {count} checks done")
        yield faults


def _check_shard(
    span: ShardSpan, settings: DatasetSettings, merged: bool, twin: ShardSpan | None, hashes: bool
) -> Faults:
    """Check one shard of a dataset with ``settings``, and compare its text with ``twin``, see :class:`Replay`.

    A fault of its files, which ``check_file`` reports, skips the checks that need them.
    """
    faults = Faults()
    sizes_fit = check_entry(span, settings, merged, faults)
    index = _matching_index(span, settings)
    lengths_fit = index is not None and check_index(span, index, settings, faults)
    if index and lengths_fit and hashes and merged:
        check_own_index(span, index, faults)
    after_last_byte = span.first_byte + span.shard.bin_bytes
    if not span.bin_path.is_file() or span.bin_path.stat().st_size < after_last_byte:
        return faults
    if sizes_fit and (settings.seq_length or lengths_fit):
        digest = hashlib.sha256()
        replay = Replay(span, settings, twin, faults)
        for block in read_blocks(span, settings, digest=digest if hashes else None):
            replay.add(block)
        replay.finish()
        found = digest.hexdigest()
    else:
        found = sha256_of(span.bin_path, span.first_byte, span.shard.bin_bytes) if hashes else ""
    if hashes and found != span.shard.bin_sha256:
        faults.add(
            "bin hash",
            f"{span.label()}: the SHA-256 of bytes {span.first_byte} to {after_last_byte} is not the manifest's; "
            "the content has changed",
        )
    return faults


def _matching_index(span: ShardSpan, settings: DatasetSettings) -> IndexFile | None:
    """Open the index; None if it is damaged or does not fit the manifest."""
    try:
        index = IndexFile.open(span.idx_path)
    except UserError:
        return None
    fits = (index.dtype, index.sequences) == (token_dtype(settings.vocab_size), span.file.sequences)
    return index if fits else None
