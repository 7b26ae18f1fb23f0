"""Preprocesses a corpus: plans the run, processes the missing shards, and writes the dataset's manifest.

Rerun the same command to resume. The run that finds all shards complete writes ``dataset.json``.

:func:`plan_run`, :func:`run_part` and :func:`finish_run` are the same work in three steps, for another engine: it calls
:func:`run_part` once for each part, on any process, in any order. The bytes do not depend on it.
"""

import os
from contextlib import nullcontext

from pause_megatron import log
from pause_megatron.children import available_cores
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import DATASET_FILE, DatasetManifest, ShardManifest
from pause_megatron.preprocess.executors import Ranks, join_ranks, run_shards, share_out
from pause_megatron.preprocess.output_folders import output_folder
from pause_megatron.preprocess.plan_json import plan_from_json, plan_to_json
from pause_megatron.preprocess.planning import Plan, finished_shards, plan_run
from pause_megatron.preprocess.progress_log import RunProgress, report_progress
from pause_megatron.preprocess.shard import ShardOutput, process_shard
from pause_megatron.versions import versions

__all__ = ["Plan", "finish_run", "plan_run", "preprocess", "run_part"]


def preprocess(config: PreprocessConfig) -> None:
    """Write the dataset folders of ``config``, or resume an earlier run.

    Raises :class:`UserError` for unusable input or an unusable tokenizer, for an output folder with shards made from
    other input or with other settings, for a full disk, and for a killed worker.
    """
    _use_one_thread()
    with join_ranks(config.engine) as ranks:
        plan = plan_from_json(ranks.from_first(lambda: plan_to_json(plan_run(config))))
        done = len(plan.sources) - len(plan.jobs)
        text = f"{len(plan.sources)} shards: {len(plan.jobs)} to do in this run, {done} complete or left to other runs"
        log.info(text + (f"; {ranks.size} MPI ranks" if ranks.size > 1 else ""))
        jobs = share_out(plan.jobs, ranks.size)[ranks.rank]
        sizes = {job.source.name: job.source.size_bytes for job in plan.jobs}
        progress = RunProgress(output_folder(config.output).progress, sizes)
        with report_progress(progress) if sizes and ranks.rank == 0 else nullcontext():
            run_shards(jobs, _workers(config, ranks))
            ranks.wait()
        if ranks.rank == 0:
            finish_run(plan)


def run_part(plan: Plan, part: int) -> tuple[ShardManifest, ...]:
    """Write one missing shard of ``plan``: the unit of work of every engine.

    ``plan`` is what :func:`plan_run` returned. It can be pickled, and a part needs nothing else, so that an engine may
    send it to another process or machine. Relative paths in it are relative to the directory of that process. ``part``
    is an index into ``plan.jobs``, from 0 to ``len(plan.jobs) - 1``.

    Returns the manifests of the shard, one for each dataset that lacked it, in the order of ``plan.outputs``. They are
    small; the tokens are in the files. A part that is killed leaves only temporary files, and can be run again. Do not
    run a part twice at the same time, nor two parts in threads of one process.

    Raises :class:`UserError` as :func:`preprocess`, and ``IndexError`` if there is no such part.
    """
    _use_one_thread()
    if not 0 <= part < len(plan.jobs):
        raise IndexError(f"part {part}: the plan has {len(plan.jobs)} parts, numbered from 0")
    return process_shard(plan.jobs[part])


def finish_run(plan: Plan) -> None:
    """Write ``dataset.json`` of every dataset of ``plan`` whose shards are all complete; log the others.

    Raises :class:`UserError` if a shard was made with other settings or from other input, has lost a file, or if all
    shards of a dataset together do not fill one sequence.
    """
    for output in plan.outputs:
        _finish(output, plan)


def _use_one_thread() -> None:
    """Let each process use one core, unless the user decides otherwise; libraries read the variables at their start."""
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _workers(config: PreprocessConfig, ranks: Ranks) -> int:
    if config.engine == "serial":
        return 1
    return config.workers or (available_cores() if ranks.size == 1 else 1)


def _finish(output: ShardOutput, plan: Plan) -> None:
    folder = output_folder(output.folder)
    done = finished_shards(output, plan.sources)
    if len(done) < len(plan.sources):
        log.info(f"{folder.place}: {len(done)} of {len(plan.sources)} shards are complete")
        return
    shards = tuple(done[source.name] for source in plan.sources)
    manifest = DatasetManifest(**vars(output.settings), shards=shards, versions=versions())
    dropped = sum(shard.dropped_tokens for shard in shards)
    if not manifest.sequences:
        raise UserError(
            f"--seq-length {manifest.seq_length}: no input file fills a sequence, since all files together have "
            f"{dropped} tokens; give more text, or a smaller length and another --output than {folder.place}"
        )
    folder.write_manifest(manifest)
    if skipped := sum(shard.skipped_records for shard in shards):
        log.warn(f"{folder.place}: {skipped} records could not be read and were left out; {DATASET_FILE} lists them")
    unit = f"sequences of {manifest.seq_length} tokens" if manifest.seq_length else "documents"
    log.info(
        f"{folder.place}: {manifest.sequences} {unit}, {manifest.pauses / manifest.tokens:.2%} of the tokens are "
        f"pauses; {dropped} real tokens dropped"
    )
