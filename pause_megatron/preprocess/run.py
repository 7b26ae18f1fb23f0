"""Preprocess a corpus: plan, run what is not done yet, describe the result.

Running the same command again resumes. A folder's own manifest comes last, from the run that finds all shards done.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

from pause_megatron import log
from pause_megatron.children import available_cores
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DATASET_FILE, DATASET_FORMAT, DatasetManifest, write_manifest
from pause_megatron.preprocess.executors import Ranks, join_ranks, run_shards, share_out
from pause_megatron.preprocess.planning import Plan, finished_shards, plan_run
from pause_megatron.preprocess.progress_log import PROGRESS_FOLDER, RunProgress, report_progress
from pause_megatron.preprocess.shard import ShardOutput
from pause_megatron.versions import versions


def preprocess(config: PreprocessConfig) -> None:
    """Write the dataset folders of ``config``, resuming where an earlier run ended.

    Raises :class:`UserError` for input or a tokenizer that cannot be used, for an output folder that holds shards made
    from other input or with other settings, for a full disk, and for a worker that was killed.
    """
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # a process for every core; libraries read these when they start
    with join_ranks(config.engine) as ranks:
        plan = ranks.from_first(lambda: plan_run(config))
        log.info(_announcement(plan, ranks))
        jobs = share_out(plan.jobs, ranks.size)[ranks.rank]
        sizes = {job.name: job.source.size_bytes for job in plan.jobs}
        progress = RunProgress(config.output / PROGRESS_FOLDER, sizes)
        with report_progress(progress) if sizes and ranks.rank == 0 else nullcontext():
            run_shards(jobs, _workers(config, ranks))
            ranks.wait()
        if ranks.rank == 0:
            for output in plan.outputs:
                _finish(output, plan)


def _workers(config: PreprocessConfig, ranks: Ranks) -> int:
    if config.engine == "serial":
        return 1
    return config.workers or (available_cores() if ranks.size == 1 else 1)


def _announcement(plan: Plan, ranks: Ranks) -> str:
    done = len(plan.sources) - len(plan.jobs)
    text = f"{len(plan.sources)} shards, {len(plan.jobs)} to do here, {done} done already or left to other runs"
    return text + (f"; on {ranks.size} MPI ranks" if ranks.size > 1 else "")


def _finish(output: ShardOutput, plan: Plan) -> None:
    """Write ``dataset.json`` if all shards are there, and say what there is."""
    done = finished_shards(output, plan.sources)
    if len(done) < len(plan.sources):
        log.info(f"{output.folder}: {len(done)} of {len(plan.sources)} shards; not finished yet")
        return
    shards = tuple(done[source.name] for source in plan.sources)
    manifest = DatasetManifest(**vars(output.settings), format=DATASET_FORMAT, shards=shards, versions=versions())
    dropped = sum(shard.dropped_tokens for shard in shards)
    if not manifest.sequences:
        raise UserError(
            f"--seq-length {manifest.seq_length}: no input file fills a sequence, all of them together have {dropped} "
            f"tokens; give more text, or a smaller length and another --output than {output.folder}"
        )
    write_manifest(output.folder / DATASET_FILE, manifest)
    skipped = sum(shard.skipped_records for shard in shards)
    if skipped:
        log.warn(f"{output.folder}: {skipped} records could not be read and were left out; {DATASET_FILE} lists them")
    what = f"sequences of {manifest.seq_length} tokens" if manifest.seq_length else "documents"
    log.info(
        f"{output.folder}: {manifest.sequences} {what}, {manifest.pauses / manifest.tokens:.2%} of the tokens pauses; "
        f"{dropped} real tokens dropped"
    )
