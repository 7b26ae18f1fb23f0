"""Each transformer layer compiled by ``torch.compile``: fewer kernels, fewer passes over memory, less Python.

Layers are compiled one by one, so that all of them are one graph, compiled once. What tensor-parallel processes
exchange within a layer divides it into several.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from megatron.core.models.gpt import GPTModel
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from pause_megatron.config.parallel import CompileLayers
from pause_megatron.errors import UserError


def compiles(choice: CompileLayers) -> bool:
    """Whether layers are compiled here: as ``choice`` says, or else on GPUs if there is a compiler.

    Raises :class:`UserError` when they are to be, and there is none.
    """
    if choice == "always" and not has_compiler():
        raise UserError(
            f"--compile-layers always: torch.compile needs {_needed()} here; install it, or leave it at auto"
        )
    return choice == "always" or (choice == "auto" and torch.cuda.is_available() and has_compiler())


def compile_layers(chunk: GPTModel) -> None:
    """Compile every layer of ``chunk``, on its first use."""
    for layer in chunk.decoder.layers:
        layer.forward = torch.compile(layer.forward)


def has_compiler() -> bool:
    """Whether ``torch.compile`` has what it needs: on a GPU Triton and a C compiler, else a C++ compiler."""
    if torch.cuda.is_available():
        c_compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
        return importlib.util.find_spec("triton") is not None and any(map(shutil.which, c_compilers))
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def _needed() -> str:
    return "Triton and a C compiler" if torch.cuda.is_available() else "a C++ compiler"
