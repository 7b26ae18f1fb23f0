"""Compiles each transformer layer with ``torch.compile``: fewer kernels, fewer passes over memory, less Python.

All layers share one graph, which is compiled once. With tensor parallelism the collectives inside a layer split it into
several graphs.

An installed compiler may still fail, for example without Python's headers. So whether ``torch.compile`` works is tested
once by compiling a trivial function.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO

import torch
from megatron.core.transformer.module import MegatronModule

from pause_megatron.config.parallel import CompileLayers
from pause_megatron.errors import UserError
from pause_megatron.parallel.groups import device

_FIXES = {
    "Python.h": "install Python's headers (Debian: python3-dev)",
    "C++ compiler": "install a C++ compiler (Debian: g++)",
    "C compiler": "install a C compiler (Debian: gcc)",
    "triton": "install the package triton",
}
"""What to do about an error message that contains the key; the first that matches counts."""


@dataclass(frozen=True, kw_only=True)
class LayerCompilation:
    """Whether layers are compiled, and why."""

    compiles: bool
    reason: str

    def __str__(self) -> str:
        return f"layers {'compiled' if self.compiles else 'not compiled'} ({self.reason})"


def layer_compilation(choice: CompileLayers) -> LayerCompilation:
    """Decide whether to compile layers on this process's device; "auto" means on GPUs if ``torch.compile`` works there.

    Raises :class:`UserError` for "always" if it does not work.
    """
    if choice == "never":
        return LayerCompilation(compiles=False, reason="--compile-layers never, or ZeRO-3")
    device_type = device().type
    if choice == "auto" and device_type == "cpu":
        return LayerCompilation(compiles=False, reason="--compile-layers auto on a CPU")
    problem = compiler_problem(device_type)
    if problem and choice == "always":
        raise UserError(f"--compile-layers always: {problem}, or use auto")
    return LayerCompilation(compiles=not problem, reason=problem or f"--compile-layers {choice}")


def compile_layers(chunk: MegatronModule) -> None:
    """Compile every layer of ``chunk`` when it is first used."""
    for layer in chunk.decoder.layers:
        layer.compute = torch.compile(layer.compute)


@cache
def compiler_problem(device_type: str) -> str:
    """Return why ``torch.compile`` fails on "cpu" or "cuda" and what to do about it; empty if it works.

    Compiles and runs a trivial function, which takes seconds, or less if its kernel is in the compiler's cache.
    """
    with _captured_stderr() as messages:
        try:
            torch.compile(_trivial)(torch.zeros(16, device=device_type))
        except Exception as error:
            messages.seek(0)
            written = messages.read().decode(errors="replace")
            return f"torch.compile fails on {device_type}: " + _explain(f"{written}\n{error}")
    return ""


def _trivial(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + 1


@contextmanager
def _captured_stderr() -> Iterator[IO[bytes]]:
    """Redirect standard error to a temporary file inside the block, also for the compilers that it starts."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(original, 2)
            os.close(original)


def _explain(messages: str) -> str:
    """Return the line of ``messages`` that names the error, and the fix if it is known."""
    by_compiler = re.search(r"error: (.+)", messages)
    lines = [line for line in messages.splitlines() if line.strip()]
    line = by_compiler[1] if by_compiler else lines[0]
    fix = next((fix for part, fix in _FIXES.items() if part in messages), "repair it")
    return f"{line.strip()}; {fix}"
