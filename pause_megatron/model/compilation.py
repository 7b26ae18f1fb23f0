"""Compiles each transformer layer with ``torch.compile``: fewer kernels, fewer passes over memory, less Python.

All layers share one graph, which is compiled once. With tensor parallelism the collectives inside a layer split it into
several graphs.
"""

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
    """Return whether to compile layers; "auto" means on GPUs if a compiler is installed.

    Raises :class:`UserError` for "always" without a compiler.
    """
    if choice == "always" and not has_compiler():
        needed = "Triton and a C compiler" if torch.cuda.is_available() else "a C++ compiler"
        raise UserError(f"--compile-layers always: torch.compile needs {needed}; install it, or use auto")
    return choice == "always" or (choice == "auto" and torch.cuda.is_available() and has_compiler())


def compile_layers(chunk: GPTModel) -> None:
    """Compile every layer of ``chunk`` when it is first used."""
    for layer in chunk.decoder.layers:
        layer.forward = torch.compile(layer.forward)


def has_compiler() -> bool:
    """Return whether ``torch.compile`` can work here: Triton and a C compiler on GPUs, a C++ compiler on CPUs."""
    if torch.cuda.is_available():
        c_compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
        return importlib.util.find_spec("triton") is not None and any(map(shutil.which, c_compilers))
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
