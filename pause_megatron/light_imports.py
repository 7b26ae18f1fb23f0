"""Lets Megatron-core and DeepSpeed be imported without the compiler and without a question to CUDA, and in less time.

They decorate functions with ``torch.compile`` that this project never calls, and each process would spend seconds on
importing the compiler for them. Such a function is compiled when it is first called. Megatron-core also imports a
module of PyTorch that asks for GPUs in builds with CUDA. The driver's library must answer, because a process that has
started CUDA cannot fork.

The garbage collector would take a fifth of the time of such imports, because it searches all objects again and again.
PyTorch's import also decides how the threads of OpenMP wait.
"""

import functools
import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODULES = (
    "megatron.core",
    "megatron.core.dist_checkpointing.strategies.torch",
    "deepspeed.runtime.zero.muon.original_muon",
)
"""Modules that do so themselves, or whose imports do."""
_ASKS_THE_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Environment variable with which PyTorch looks for GPUs by the driver's library."""
_WAIT_POLICY = "OMP_WAIT_POLICY"
"""Environment variable that the OpenMP library reads when it is loaded."""


def lighten_imports() -> None:
    """Change the import of these modules; call it before that."""
    sys.meta_path[:0] = [_Finder(name) for name in _MODULES if name not in sys.modules]


@contextmanager
def without_collection() -> Iterator[None]:
    """Turn the garbage collector off in a block that imports modules; it also skips later what exists at its end.

    These objects, such as functions and classes, stay until the process ends.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if is_enabled:
            gc.enable()


@contextmanager
def openmp_sleeps() -> Iterator[None]:
    """Let the threads of OpenMP sleep while they wait, if the block imports PyTorch for the first time.

    Otherwise they occupy their cores, also while other threads or programs need these. ``OMP_WAIT_POLICY`` has
    priority.
    """
    if _WAIT_POLICY in os.environ:
        yield
        return
    os.environ[_WAIT_POLICY] = "PASSIVE"
    try:
        yield
    finally:
        del os.environ[_WAIT_POLICY]


def compiled_at_first_call(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
    """Replaces ``torch.compile`` as a decorator, with or without arguments."""
    if function is None:
        return functools.partial(compiled_at_first_call, **settings)

    @functools.cache
    def compiled() -> Callable[..., Any]:
        import torch

        result: Callable[..., Any] = torch.compile(function, **settings)
        return result

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        return compiled()(*arguments, **keywords)

    return call


class _Finder(MetaPathFinder):
    """Finds one module where Python finds it, once, and exchanges the loader."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module with another ``torch.compile``; all else is the original loader's."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._original.create_module(spec)
        return module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def exec_module(self, module: ModuleType) -> None:
        import torch

        original, asked = torch.compile, os.environ.get(_ASKS_THE_DRIVER)
        torch.compile = compiled_at_first_call  # type: ignore[assignment]
        os.environ[_ASKS_THE_DRIVER] = "1"
        try:
            self._original.exec_module(module)
        finally:
            torch.compile = original
            if asked is None:
                del os.environ[_ASKS_THE_DRIVER]
            else:
                os.environ[_ASKS_THE_DRIVER] = asked
