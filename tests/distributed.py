"""Runs functions in several processes that can form one gloo group, for tests of distributed behaviour.

Children fork from a server that has imported Megatron-core, DeepSpeed and transformers once (which takes seconds), so a
group starts in a fraction of a second. The functions must be importable: define them at the top level of a test module.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from pause_megatron.parallel.ports import free_port

TIMEOUT_SECONDS = 240
_GRACE_SECONDS = 2.0
"""After one process fails, the others have this long to answer; most of them fail too, or hang without it."""

TORCHRUN_FLAGS = ("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1")
"""Flags of ``torchrun`` on one machine whose own name, and ``localhost``, need not resolve."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pause_megatron.training.run", "pause_megatron.downstream.finetune"])


def run_distributed(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """Call ``function(*arguments)`` in ``world_size`` processes and return their results in rank order.

    If a process raises, the test fails with its traceback; if one hangs, the test fails after a timeout.
    """
    with ProcessPool(world_size) as pool:
        return pool.run(function, *arguments)


class ProcessPool:
    """Processes that call one function after the other and can keep a gloo group between the calls.

    Leave the ``with`` block, or call :meth:`close`, to end them. After an error they must not be used again.
    """

    def __init__(self, world_size: int) -> None:
        _start_server()
        port = free_port()
        self._children, self._pipes = [], []
        for rank in range(world_size):
            pipe, end = _CONTEXT.Pipe()
            child = _CONTEXT.Process(target=_child, args=(end, rank, world_size, port), daemon=True)
            child.start()
            end.close()
            self._children.append(child)
            self._pipes.append(pipe)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call ``function(*arguments)`` in all processes, and return their results in rank order."""
        self.start(function, *arguments)
        return self.results()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start to call ``function(*arguments)`` in all processes; :meth:`results` waits for them."""
        for pipe in self._pipes:
            pipe.send((function, arguments))

    def results(self) -> list[Any]:
        """Wait for the results of :meth:`start`. Raises ``AssertionError`` if a process raised, died or hangs."""
        answers: dict[int, Any] = {}
        failures: dict[int, str] = {}
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(answers) + len(failures) < len(self._pipes):
            waiting = {pipe: rank for rank, pipe in enumerate(self._pipes) if rank not in {*answers, *failures}}
            ready = wait(list(waiting), timeout=max(deadline - time.monotonic(), 0.0))
            if not ready:
                break
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = waiting[pipe]
                succeeded, value = _receive(pipe)
                (answers if succeeded else failures)[rank] = value
            if failures:
                deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        silent = [rank for rank in range(len(self._pipes)) if rank not in {*answers, *failures}]
        assert not failures, "\n".join(f"rank {rank} {failures[rank]}" for rank in sorted(failures))
        assert not silent, f"ranks {silent} did not answer within {TIMEOUT_SECONDS} s"
        return [answers[rank] for rank in range(len(self._pipes))]

    def close(self) -> None:
        """End the processes."""
        for child, pipe in zip(self._children, self._pipes, strict=True):
            child.kill()
            child.join()
            pipe.close()


@cache
def _start_server() -> None:
    """Wait for the server's imports, which take seconds; a port found free before them could be taken after them."""
    child = _CONTEXT.Process(target=int)
    child.start()
    child.join()


def _receive(pipe: Connection) -> tuple[bool, Any]:
    """Return whether the process succeeded, and its result or the reason."""
    try:
        succeeded, value = pipe.recv()
    except EOFError:
        return False, "died"
    return succeeded, value if succeeded else f"failed:\n{value}"


def _refuse_to_unpickle(*arguments: Any) -> Any:
    """Fail in place of PyTorch's function, except when PyTorch's FSDP resumes: its ranks send their state's layout."""
    callers = {Path(frame.filename).name for frame in traceback.extract_stack()}
    if "_state_dict_utils.py" in callers:
        return _UNPICKLE(*arguments)
    raise AssertionError("a collective for objects, ours or a library's, would unpickle what another process sent")


def _child(pipe: Connection, rank: int, world_size: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch
    from torch.distributed import distributed_c10d

    global _UNPICKLE
    _UNPICKLE = distributed_c10d._tensor_to_object
    distributed_c10d._tensor_to_object = _refuse_to_unpickle
    gc.freeze()  # some tests collect garbage often; exclude the imported modules from the search
    torch.set_num_threads(1)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:  # the test is over
            return
        try:
            answer = (True, function(*arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        pipe.send(answer)
