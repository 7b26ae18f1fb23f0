"""Importing the package does not ask CUDA for GPUs, so a process can still fork, and choose or hide its device."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import importlib, os, pkgutil, sys
import torch

asked = set()

def recorded(name, question):
    def ask(*arguments, **keywords):
        if name in ("is_available", "device_count") and os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == "1":
            return question(*arguments, **keywords)  # the driver's library answers, and CUDA does not start
        asker = sys._getframe(1)
        asked.add(f"{asker.f_code.co_filename}:{asker.f_lineno} asks {name}")
        return question(*arguments, **keywords)
    return ask

for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties"):
    setattr(torch.cuda, name, recorded(name, getattr(torch.cuda, name)))
if sys.argv[1:] == ["ask"]:
    torch.cuda.is_available()
else:
    import pause_megatron
    from pause_megatron.errors import UserError
    for module in pkgutil.walk_packages(pause_megatron.__path__, "pause_megatron."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except (UserError, ModuleNotFoundError) as error:  # a step for another program
                assert "datatrove" in str(error), error
assert not torch.cuda.is_initialized()
print(*sorted(asked), sep="\\n")
"""


def questions(*arguments: str) -> list[str]:
    """Lines of code that ask CUDA for GPUs while every module of the package is imported."""
    # The last one, which an environment may set for all programs, would count every question as one to the driver.
    hidden = ("CUDA_VISIBLE_DEVICES", "PAUSE_MEGATRON_DEVICE", "CUDA_HOME", "PYTORCH_NVML_BASED_CUDA_CHECK")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if " asks " in line]


def test_importing_every_module_does_not_ask_for_gpus() -> None:
    assert questions() == []


@pytest.mark.parametrize("asks_the_driver", [None, "1"])
def test_a_question_would_be_noticed(asks_the_driver: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if asks_the_driver:
        monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", asks_the_driver)
    assert any(line.endswith("asks is_available") for line in questions("ask"))
