"""Importing Megatron-core and DeepSpeed does not import the compiler; what they decorate compiles when called."""

from __future__ import annotations

import subprocess
import sys

import torch

from pause_megatron.light_imports import compiled_at_first_call

PROGRAM = """
import sys, torch
compile = torch.compile
import pause_megatron.training.run
import deepspeed.runtime.zero.muon.original_muon
from megatron.core.transformer.utils import gelu_impl
assert torch.compile is compile, "later calls are PyTorch's own"
assert "torch._dynamo" not in sys.modules, "the compiler is imported"
torch._dynamo.config.disable = True
assert torch.equal(gelu_impl(torch.zeros(2)), torch.zeros(2))
"""


def test_importing_the_trainer_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_function_is_compiled_once_with_the_settings_of_its_decorator() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    @compiled_at_first_call(backend=backend)
    def double(values: torch.Tensor) -> torch.Tensor:
        """Twice the values."""
        return 2 * values

    assert double.__doc__ == "Twice the values."
    assert not graphs
    for _ in range(2):
        assert double(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(graphs) == 1
