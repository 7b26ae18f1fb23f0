"""Importing the model does not ask for GPUs, so that processes may still be forked and choose their device."""

from __future__ import annotations

import importlib.util
import pkgutil

import pytest
import torch

from pause_megatron import model

MODULES = [f"{model.__name__}.{found.name}" for found in pkgutil.iter_modules(model.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_import_does_not_ask_for_gpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise AssertionError(f"{name} asks for GPUs when it is imported")

    for question in ("is_available", "device_count", "current_device"):
        monkeypatch.setattr(torch.cuda, question, refuse)
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # a fresh copy; sys.modules keeps the old one
