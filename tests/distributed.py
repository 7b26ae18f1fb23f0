"""Runs a function in several processes that can form one gloo group, for tests of distributed behaviour.

Children fork from a server that has imported Megatron-core, DeepSpeed and transformers once (which takes seconds), so a
group starts in a fraction of a second. The functions must be importable: define them at the top level of a test module.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from pause_megatron.parallel.ports import free_port

TIMEOUT_SECONDS = 240

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pause_megatron.training.run", "pause_megatron.downstream.finetune"])


def run_distributed(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """Call ``function(*arguments)`` in ``world_size`` processes and return their results in rank order.

    If a process raises, the test fails with its traceback; if one hangs, the test fails after a timeout.
    """
    _start_server()
    port = free_port()
    children, pipes = [], []
    for rank in range(world_size):
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        child = _CONTEXT.Process(target=_child, args=(sender, function, arguments, rank, world_size, port), daemon=True)
        child.start()
        sender.close()
        children.append(child)
        pipes.append(receiver)
    try:
        return [_receive(pipe, rank) for rank, pipe in enumerate(pipes)]
    finally:
        for child in children:
            child.kill()
            child.join()


@cache
def _start_server() -> None:
    """Wait for the server's imports, which take seconds; a port found free before them could be taken after them."""
    child = _CONTEXT.Process(target=int)
    child.start()
    child.join()


def _receive(pipe: Connection, rank: int) -> Any:
    assert pipe.poll(TIMEOUT_SECONDS), f"rank {rank} did not answer within {TIMEOUT_SECONDS} s"
    try:
        succeeded, value = pipe.recv()
    except EOFError:
        raise AssertionError(f"rank {rank} died") from None
    assert succeeded, f"rank {rank} failed:\n{value}"
    return value


def _child(
    pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], rank: int, world_size: int, port: int
) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch

    gc.freeze()  # some tests collect garbage often; exclude the imported modules from the search
    torch.set_num_threads(1)
    try:
        answer = (True, function(*arguments))
    except BaseException:
        answer = (False, traceback.format_exc())
    pipe.send(answer)
    pipe.close()
