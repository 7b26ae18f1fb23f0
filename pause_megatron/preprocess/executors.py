"""Engines: different ways to run the same jobs. What they produce does not depend on which one ran.

Only jobs go to the workers and only the shards' manifest entries come back, so any number of ranks can be fed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial

from pause_megatron.children import available_cores
from pause_megatron.errors import EXIT_INTERNAL, UserError
from pause_megatron.preprocess.manifest import ShardManifest
from pause_megatron.preprocess.shard import ShardJob, process_shard

RunJobs = Callable[[Sequence[ShardJob]], Iterator[ShardManifest]]
"""Runs jobs and yields the shards as they are finished; the first error ends the run after the jobs begun."""


@contextmanager
def open_engine(engine: str, workers: int) -> Iterator[RunJobs | None]:
    """The function that runs jobs on ``engine``; None on an MPI rank that has served as a worker and is done.

    ``workers`` is the number of processes of the engine ``process``; 0: one for each core this process may run on.
    """
    if engine == "mpi":
        with _mpi_executor() as executor:
            yield partial(_run_on, executor) if executor else None
    elif engine == "process":
        yield partial(_in_processes, workers or available_cores())
    else:
        yield _here


def _here(jobs: Sequence[ShardJob]) -> Iterator[ShardManifest]:
    return map(process_shard, jobs)


def _in_processes(workers: int, jobs: Sequence[ShardJob]) -> Iterator[ShardManifest]:
    workers = min(workers, len(jobs))
    if workers <= 1:  # nothing to gain, and a process takes a third of a second to start
        yield from _here(jobs)
        return
    with new_process_pool(workers) as executor:
        try:
            yield from _run_on(executor, jobs)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed (out of memory?); finished shards are kept: run the same command again, "
                "with fewer --workers"
            ) from error


def new_process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool whose processes end with this one, however it ends; the standard pool's would wait for work for ever."""
    context = multiprocessing.get_context("spawn")  # no fork: this process may have threads
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_on(executor: Executor, jobs: Sequence[ShardJob]) -> Iterator[ShardManifest]:
    futures = [executor.submit(process_shard, job) for job in jobs]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _mpi_executor() -> Iterator[Executor | None]:
    """Rank 0 gets the executor; the other ranks serve it on entry, and get None when it is done.

    A fault on any rank ends the whole job, since the others would wait for that rank for ever.
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:
        raise UserError(f"--engine mpi: mpi4py finds no MPI library ({error}); use mpirun or srun") from error
    try:
        with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
            yield executor  # type: ignore[misc] # an Executor in all but its base class
    except UserError:  # rank 0's own: the workers have been dismissed
        raise
    except BaseException:
        traceback.print_exc()
        MPI.COMM_WORLD.Abort(EXIT_INTERNAL)
        raise
