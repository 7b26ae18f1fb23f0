"""Preprocesses a corpus: plans the run, processes the missing shards, and writes the dataset's manifest.

Rerun the same command to resume. The run that finds all shards complete writes ``dataset.json``.
"""

import os
from contextlib import nullcontext

from pause_megatron import log
from pause_megatron.children import available_cores
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DATASET_FILE, DatasetManifest, write_dataset_manifest
from pause_megatron.preprocess.executors import Ranks, join_ranks, run_shards, share_out
from pause_megatron.preprocess.plan_json import plan_from_json, plan_to_json
from pause_megatron.preprocess.planning import Plan, finished_shards, plan_run
from pause_megatron.preprocess.progress_log import PROGRESS_FOLDER, RunProgress, report_progress
from pause_megatron.preprocess.shard import ShardOutput
from pause_megatron.versions import versions


def preprocess(config: PreprocessConfig) -> None:
    """Write the dataset folders of ``config``, or resume an earlier run.

    Raises :class:`UserError` for unusable input or an unusable tokenizer, for an output folder with shards made from
    other input or with other settings, for a full disk, and for a killed worker.
    """
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # each core has its process; libraries read these variables when they start
    with join_ranks(config.engine) as ranks:
        plan = plan_from_json(ranks.from_first(lambda: plan_to_json(plan_run(config))))
        done = len(plan.sources) - len(plan.jobs)
        text = f"{len(plan.sources)} shards: {len(plan.jobs)} to do in this run, {done} complete or left to other runs"
        log.info(text + (f"; {ranks.size} MPI ranks" if ranks.size > 1 else ""))
        jobs = share_out(plan.jobs, ranks.size)[ranks.rank]
        sizes = {job.source.name: job.source.size_bytes for job in plan.jobs}
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


def _finish(output: ShardOutput, plan: Plan) -> None:
    done = finished_shards(output, plan.sources)
    if len(done) < len(plan.sources):
        log.info(f"{output.folder}: {len(done)} of {len(plan.sources)} shards are complete")
        return
    shards = tuple(done[source.name] for source in plan.sources)
    manifest = DatasetManifest(**vars(output.settings), shards=shards, versions=versions())
    dropped = sum(shard.dropped_tokens for shard in shards)
    if not manifest.sequences:
        raise UserError(
            f"--seq-length {manifest.seq_length}: no input file fills a sequence, since all files together have "
            f"{dropped} tokens; give more text, or a smaller length and another --output than {output.folder}"
        )
    write_dataset_manifest(output.folder, manifest)
    if skipped := sum(shard.skipped_records for shard in shards):
        log.warn(f"{output.folder}: {skipped} records could not be read and were left out; {DATASET_FILE} lists them")
    unit = f"sequences of {manifest.seq_length} tokens" if manifest.seq_length else "documents"
    log.info(
        f"{output.folder}: {manifest.sequences} {unit}, {manifest.pauses / manifest.tokens:.2%} of the tokens are "
        f"pauses; {dropped} real tokens dropped"
    )
