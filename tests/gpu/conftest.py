"""Skips the tests of this folder on a machine without a GPU."""

import os
from pathlib import Path

import pytest

from pause_megatron.config.parallel import DEVICE_VARIABLE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU unless ``make test-gpu`` asked for it and there is one."""
    reason = "run 'make test-gpu' to check GPUs"
    if os.environ.get(DEVICE_VARIABLE) == "cuda":
        import torch

        reason = "" if torch.cuda.is_available() else "CUDA finds no GPU here; GPUs were not checked"
    for item in items:
        if reason and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
