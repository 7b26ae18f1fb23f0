"""Postpones the calls of ``torch.compile`` that Megatron-core and DeepSpeed make while they are imported.

They decorate functions that this project never calls, and each process would spend seconds on importing the compiler
for them. With :func:`postpone_compilation` such a function is compiled when it is first called.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODULES = ("megatron.core", "deepspeed.runtime.zero.muon.original_muon")
"""Modules that make such calls, or whose imports do."""


def postpone_compilation() -> None:
    """Do so when these modules are imported; call it before that."""
    sys.meta_path[:0] = [_Finder(name) for name in _MODULES if name not in sys.modules]


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

        original = torch.compile
        torch.compile = compiled_at_first_call  # type: ignore[assignment]
        try:
            self._original.exec_module(module)
        finally:
            torch.compile = original
