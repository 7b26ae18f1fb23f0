"""Executors of preprocessing: process pools and MPI ranks. The result does not depend on the executor.

Under MPI the jobs are divided once, by size, and every rank processes its own. Ranks exchange only the list of jobs. An
error on one rank ends all ranks, because the others would wait for it forever.
"""

import heapq
import multiprocessing
import os
import threading
import traceback
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from pause_megatron import log
from pause_megatron.errors import EXIT_INTERNAL, EXIT_USER, UserError
from pause_megatron.launcher_variables import number_of, text_of
from pause_megatron.preprocess.shard import ShardJob, process_shard


class Ranks:
    """The ranks that share the work: those of an MPI job, or only this process."""

    def __init__(self, communicator: Any = None) -> None:
        self._communicator = communicator
        self.rank: int = communicator.rank if communicator else 0
        self.size: int = communicator.size if communicator else 1

    def from_first(self, make: Callable[[], str]) -> str:
        """Call ``make`` on rank 0 and return its text on every rank."""
        if not self._communicator:
            return make()
        message = bytearray(make().encode()) if self.rank == 0 else bytearray()
        size = array("q", [len(message)])
        self._communicator.Bcast(size)  # buffers, because bcast would unpickle what it receives
        message = message or bytearray(size[0])
        self._communicator.Bcast(message)
        return message.decode()

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self._communicator:
            self._communicator.barrier()


@contextmanager
def join_ranks(engine: str) -> Iterator[Ranks]:
    """Join the MPI job if ``engine`` is ``mpi``, or if it is ``auto`` and a launcher started several processes."""
    if engine not in ("mpi", "auto") or (engine == "auto" and _launched_ranks() == 1):
        yield Ranks()
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(f"--engine {engine}: mpi4py finds no MPI library ({error}); use mpirun or srun") from error
    ranks = Ranks(MPI.COMM_WORLD)
    if ranks.size != _launched_ranks():
        raise UserError(
            f"--engine {engine}: {_launched_ranks()} processes were started but MPI joins only {ranks.size}, so each "
            "would do all the work; start them with the mpirun of this MPI library, or with srun --mpi=pmix"
        )
    try:
        yield ranks
    except BaseException as error:
        if ranks.size == 1:
            raise
        if isinstance(error, UserError):
            log.write_line(f"error: {error}")
        else:
            traceback.print_exc()
        MPI.COMM_WORLD.Abort(EXIT_USER if isinstance(error, UserError) else EXIT_INTERNAL)


def _launched_ranks() -> int:
    names = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")  # Open MPI; MPICH and Intel MPI; Slurm
    return next((number_of(os.environ, name, least=1) for name in names if text_of(os.environ, name)), 1)


def share_out(jobs: Sequence[ShardJob], ranks: int) -> list[list[ShardJob]]:
    """Divide the jobs among ranks: the largest first, each to the rank with the least work."""
    shares: list[list[ShardJob]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for job in sorted(jobs, key=lambda job: -job.source.size_bytes):
        load, rank = heapq.heappop(loads)
        shares[rank].append(job)
        heapq.heappush(loads, (load + max(1, job.source.size_bytes), rank))
    return shares


def run_shards(jobs: Sequence[ShardJob], workers: int) -> None:
    """Process ``jobs`` on ``workers`` processes. After an error, jobs that have begun are completed and kept."""
    workers = min(workers, len(jobs))
    if workers <= 1:  # a process takes a third of a second to start
        for job in jobs:
            process_shard(job)
        return
    with new_process_pool(workers) as executor:
        futures = [executor.submit(process_shard, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed (out of memory?); complete shards are kept, so rerun the same command "
                "with fewer --workers"
            ) from error
        except UserError as error:
            log.warn(f"stopping when the running shards are complete: {error}")
            raise
        finally:
            for future in futures:
                future.cancel()


def new_process_pool(workers: int) -> ProcessPoolExecutor:
    """Create a pool of processes that end with this one; those of a standard pool would wait for work forever."""
    context = multiprocessing.get_context("spawn")  # not fork: this process may have threads
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
