"""``pause-megatron verify-dataset``: plans the checks, runs them in processes of their own, and reports."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Protocol

from pause_megatron import log
from pause_megatron.children import available_cores
from pause_megatron.config.dataset import VerifyDatasetConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DatasetManifest, read_dataset_manifest, stored_files
from pause_megatron.preprocess.executors import new_process_pool
from pause_megatron.preprocess.shard_spans import ShardSpan, settings_of, spans_of
from pause_megatron.preprocess.verification.faults import FaultReport
from pause_megatron.preprocess.verification.index_checks import check_file
from pause_megatron.preprocess.verification.manifest_checks import check_settings, find_twins
from pause_megatron.preprocess.verification.shard_checks import ShardCheck, check_shard

_SECONDS_BETWEEN_MESSAGES = 10


class Check(Protocol):
    """Something to check, in whatever process."""

    def __call__(self) -> FaultReport:
        """Check it."""
        ...


def verify_dataset(config: VerifyDatasetConfig) -> None:
    """Check the dataset ``config.data`` and print what was found: a table, or one line for each fault.

    Raises :class:`UserError` when there are faults, and when there is nothing to check or to compare with.
    """
    manifest = read_dataset_manifest(config.data)
    faults = list(check_settings(config.data, manifest))
    compared = 0
    if not faults:
        checks = _plan(config, manifest)
        for report in run_checks(checks, config.workers):
            faults += report.faults
            compared += report.compared_tokens
    if faults:
        print("\n".join(faults), flush=True)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError(f"{config.data}: {count}; do not train on it before it is mended")
    print("\n".join(f"{name:<12}{value}" for name, value in _summary(config, manifest, compared)))


def _plan(config: VerifyDatasetConfig, manifest: DatasetManifest) -> list[Check]:
    settings, spans = settings_of(manifest), spans_of(config.data, manifest)
    twins: Sequence[ShardSpan | None] = [None] * len(spans)
    if config.standard is not None:
        twins = find_twins(config.standard, manifest, spans)
    checks: list[Check] = [
        partial(check_file, config.data, file, settings, config.hashes) for file in stored_files(manifest)
    ]
    for span, twin in zip(spans, twins, strict=True):
        check = ShardCheck(span=span, settings=settings, merged=bool(manifest.merged), twin=twin, hashes=config.hashes)
        checks.append(partial(check_shard, check))
    return checks


def run_checks(checks: Sequence[Check], workers: int) -> Iterator[FaultReport]:
    """The reports, in the order of ``checks``. Raises :class:`UserError` when a process is killed."""
    workers = min(workers or available_cores(), len(checks))
    if workers == 1:
        yield from _with_progress((check() for check in checks), len(checks))
        return
    try:
        with new_process_pool(workers) as pool:
            yield from _with_progress(pool.map(_call, checks), len(checks))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed (out of memory?), so not everything was checked; run it again with fewer "
            "--workers"
        ) from error


def _call(check: Check) -> FaultReport:
    return check()


def _with_progress(reports: Iterator[FaultReport], count: int) -> Iterator[FaultReport]:
    said = time.monotonic()
    for done, report in enumerate(reports, start=1):
        if time.monotonic() - said > _SECONDS_BETWEEN_MESSAGES:
            said = time.monotonic()
            log.info(f"{done} of {count} checks done")
        yield report


def _summary(config: VerifyDatasetConfig, manifest: DatasetManifest, compared: int) -> Iterator[tuple[str, str]]:
    """The rows of the table: name and value."""
    stored, files = manifest.tokens, stored_files(manifest)
    gigabytes = sum(file.bin_bytes + file.idx_bytes for file in files) / 1e9
    yield "dataset", f"{config.data}: whole"
    yield "pauses", _pauses(manifest)
    hashes = "equal" if config.hashes else "not compared"
    pairs = "1 .bin and .idx pair" if len(files) == 1 else f"{len(files)} .bin and .idx pairs"
    yield "files", f"{pairs}, {gigabytes:.3f} GB, shards: {len(manifest.shards)}; hashes {hashes}"
    documents = sum(shard.documents for shard in manifest.shards)
    skipped = sum(shard.skipped_records for shard in manifest.shards)
    yield "documents", f"{documents:,}" + (f", {skipped:,} records skipped" if skipped else "")
    length = f" of {manifest.seq_length} tokens" if manifest.seq_length else ", one document each"
    yield "sequences", f"{manifest.sequences:,}{length}"
    yield "tokens", f"{stored:,}, {stored - manifest.pauses:,} of them real"
    if config.standard is not None:
        dropped = sum(shard.trimmed_tokens for shard in manifest.shards)
        yield (
            "standard",
            f"{compared:,} real tokens equal to those of {config.standard}"
            + (f", {dropped:,} trimmed off as declared" if dropped else ""),
        )


def _pauses(manifest: DatasetManifest) -> str:
    if manifest.strategy == "none":
        return "none"
    realised = manifest.pauses / max(1, manifest.tokens)
    text = f"{manifest.strategy}: {manifest.pauses:,}, {realised:.3%} of the tokens; "
    if manifest.strategy == "sequence":
        return text + f"the settings ask for {manifest.expected_pause_fraction:.3%}"
    return text + f"in each {'document' if manifest.strategy == 'document' else 'sequence'} as many as asked for"
