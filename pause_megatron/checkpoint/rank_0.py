"""What one process does for all: it alone touches the folders, and its failure is everyone's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from pause_megatron.errors import UserError
from pause_megatron.parallel.collectives import broadcast_from_rank_0

Result = TypeVar("Result")


def on_rank_0(action: Callable[[], Result]) -> Result:
    """What ``action`` returns on rank 0, on every process; every process calls this.

    Raises :class:`UserError` on every process when it raises one there, or an ``OSError``.
    """
    result: Any = None
    failure = ""
    if dist.get_rank() == 0:
        try:
            result = action()
        except UserError as error:
            failure = str(error)
        except OSError as error:
            failure = f"{error.filename}: {error.strerror or error}"
    result, failure = broadcast_from_rank_0((result, failure))
    if failure:
        raise UserError(failure)
    found: Result = result
    return found
