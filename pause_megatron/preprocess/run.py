"""Preprocess a corpus: plan a job for each input file, run what is not done yet, describe the result.

Running the same command again resumes: a shard whose manifest is there is done. The folder's own manifest comes last.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pause_megatron import log
from pause_megatron.atomic import TEMPORARY_SUFFIX
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.executors import RunJobs, open_engine
from pause_megatron.preprocess.manifest import (
    DATASET_FILE,
    DATASET_FORMAT,
    DatasetManifest,
    DatasetSettings,
    ShardManifest,
    check_shard_files,
    differing_setting,
    read_shard_record,
    write_manifest,
)
from pause_megatron.preprocess.shard import ShardJob
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.corpus import CORPUS_SUFFIXES, expand_inputs
from pause_megatron.versions import versions


def preprocess(config: PreprocessConfig) -> None:
    """Write the dataset folder ``config.output``, resuming where an earlier run ended.

    Raises :class:`UserError` for input or a tokenizer that cannot be used, and for an output folder that holds shards
    made from other input or with other settings.
    """
    with open_engine(config.engine, config.workers) as run_jobs:
        if run_jobs is not None:
            _preprocess(config, run_jobs)


def _preprocess(config: PreprocessConfig, run_jobs: RunJobs) -> None:
    jobs = plan_jobs(config)
    config.output.mkdir(parents=True, exist_ok=True)
    done = _finished_shards(config.output, jobs)
    _sweep(config.output)
    to_do = [job for job in jobs if job.name not in done]
    # The largest first: the run ends soonest when no worker is left alone with a large shard.
    to_do.sort(key=lambda job: job.input.stat().st_size, reverse=True)
    log.info(f"{len(jobs)} shards, {len(done)} of them done already")
    started = time.monotonic()
    tokens = 0
    for finished, shard in enumerate(run_jobs(to_do), start=1):
        done[shard.name] = shard
        tokens += shard.tokens
        rate = tokens / (time.monotonic() - started)
        log.info(
            f"{shard.name}: {shard.documents} documents, {shard.sequences} sequences; "
            f"{finished} of {len(to_do)} shards, {tokens / 1e6:.2f} million tokens, {rate / 1e6:.2f} million/s"
        )
    _write_dataset_manifest(config.output, [done[job.name] for job in jobs], jobs[0].settings)


def plan_jobs(config: PreprocessConfig) -> list[ShardJob]:
    """One job for each input file, in sorted order, whose position is the shard's index."""
    files = expand_inputs(config.input)
    names = [_shard_name(path) for path in files]
    for name, count in Counter(names).items():
        if count > 1 or name == Path(DATASET_FILE).stem:
            clash = " and ".join(str(path) for path in files if _shard_name(path) == name)
            raise UserError(
                f"{clash}: a shard is named after its file, and '{name}' is taken; rename it or leave it out"
            )
    if config.output.resolve() in {path.parent.resolve() for path in files}:
        raise UserError(f"--output {config.output}: the input files lie there; give the dataset a folder of its own")
    tokenizer = PauseTokenizer.load(config.tokenizer)
    settings = dataset_settings(config, tokenizer)
    return [
        ShardJob(
            name=name,
            index=index,
            input=path,
            tokenizer=tokenizer.path,
            output=config.output,
            settings=settings,
        )
        for index, (name, path) in enumerate(zip(names, files, strict=True))
    ]


def dataset_settings(config: PreprocessConfig, tokenizer: PauseTokenizer) -> DatasetSettings:
    """What decides the bytes. Without pauses nothing is trimmed, and the rate is 0 whatever the flags say."""
    with_pauses = config.pauses != "none"
    return DatasetSettings(
        strategy=config.pauses,
        pause_rate=config.pause_rate if with_pauses else 0.0,
        seq_length=config.seq_length,
        seed=config.seed,
        trimmed=config.trimmed if with_pauses else "carry",
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        pause_id=tokenizer.pause_id,
        eod_id=tokenizer.eod_id,
    )


def _shard_name(path: Path) -> str:
    suffix = next(suffix for suffix in CORPUS_SUFFIXES if path.name.endswith(suffix))
    return path.name.removesuffix(suffix)


def _finished_shards(output: Path, jobs: Sequence[ShardJob]) -> dict[str, ShardManifest]:
    """The shards of an earlier run, by name.

    Raises :class:`UserError` when one of them was made from other input or with other settings than ``jobs`` ask for.
    """
    job_of_name = {job.name: job for job in jobs}
    done: dict[str, ShardManifest] = {}
    for path in sorted(output.glob("*.json")):
        if path.name == DATASET_FILE:
            continue
        record = read_shard_record(path)
        shard, job = record.shard, job_of_name.get(record.shard.name)
        if job is None:
            raise UserError(f"{path}: {shard.input} is not among --input now; give another --output")
        if name := differing_setting(record.settings, job.settings):
            there, now = getattr(record.settings, name), getattr(job.settings, name)
            raise UserError(f"{path}: written with {name} {there}, not {now} as now; give another --output")
        if (shard.index, shard.input_bytes) != (job.index, job.input.stat().st_size):
            raise UserError(
                f"{path}: {job.input} or its place among --input has changed since the shard was written; "
                "give another --output"
            )
        check_shard_files(output, shard)
        done[shard.name] = shard
    return done


def _sweep(output: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in output.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink()


def _write_dataset_manifest(output: Path, shards: Sequence[ShardManifest], settings: DatasetSettings) -> None:
    manifest = DatasetManifest(**vars(settings), format=DATASET_FORMAT, shards=tuple(shards), versions=versions())
    dropped = sum(shard.dropped_tokens for shard in shards)
    if not manifest.sequences:
        raise UserError(
            f"--seq-length {manifest.seq_length}: no input file fills a sequence, all of them together have {dropped} "
            f"tokens; give more text, or a smaller length and another --output than {output}"
        )
    write_manifest(output / DATASET_FILE, manifest)
    log.info(
        f"{output}: {manifest.sequences} sequences of {manifest.seq_length} tokens, "
        f"{manifest.pauses / manifest.tokens:.2%} of the tokens pauses; {dropped} real tokens dropped"
    )
