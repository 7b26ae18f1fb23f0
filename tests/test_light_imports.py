"""Importing Megatron-core and DeepSpeed imports no compiler and searches for no garbage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

COMMAND = """
import gc
before = gc.get_stats()[2]
import pause_megatron.training.run

def run(config):
    assert gc.get_stats()[2] == before, "the collector searched all objects during the import"
    assert gc.isenabled()
    assert gc.get_freeze_count() > 100_000, "it will search the imported objects"
"""
RUN = "from pause_megatron.cli.commands import Command as C; C(summary='', config='', function='command:run').run(None)"


def test_importing_the_trainer_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_garbage_collector_does_not_search_what_a_command_imports(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=False)
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
