"""Exports of checkpoints from every layout pass the check, load with stock transformers, and import exactly."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pause_megatron.checkpoint.checkpoint_folders import latest_checkpoint
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.conversion.stored_weights import StoredWeights
from pause_megatron.conversion.table import from_hf_state
from pause_megatron.conversion.to_hf import write_model
from pause_megatron.model.parameters import OUTPUT_LAYER, WORD_EMBEDDINGS
from tests.conversion.test_to_hf import SmallVocabulary, prove
from tests.distributed import run_distributed
from tests.quick import others_slow
from tests.training.runs import GPT2, LLAMA, VOCAB_SIZE, Run, train_all

MODELS = {
    f"{model.architecture}{', tied' if not untied else ''}{', grouped queries' if groups else ''}": replace(
        model, untie_embeddings_and_output_weights=untied, num_query_groups=groups
    )
    for model, untied, groups in itertools.product((GPT2, LLAMA), (True, False), (0, 2))
}
TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
LAYOUTS: dict[str, tuple[int, dict[str, int], int]] = {
    "one process": (1, {}, 1),
    "one process, ZeRO-3": (1, {}, 3),
    "TP 2": (2, TP2, 1),
    "TP 2, ZeRO-3": (2, TP2, 3),
    "PP 2": (2, PP2, 1),
    "PP 2, VP 2": (2, {**PP2, "virtual_pipeline_model_parallel_size": 2}, 1),
    "DP 2, ZeRO-3": (2, {}, 3),
    "TP 2, PP 2": (4, {**TP2, **PP2}, 1),
}
"""Processes, parallel sizes, ZeRO stage."""
QUICK = ("TP 2, PP 2",)
"""The layout that divides a model in both ways; ``make test-slow`` has the others, and ZeRO-3."""


@pytest.mark.parametrize("layout", others_slow(LAYOUTS, QUICK))
def test_checkpoint_of_every_layout_exports_and_imports_exactly(layout: str, tmp_path: Path) -> None:
    world_size, sizes, zero_stage = LAYOUTS[layout]
    runs = [
        Run(
            model=model,
            parallel=ParallelConfig(**sizes),
            zero_stage=zero_stage,
            last_step=2,
            save=tmp_path / name / "checkpoints",
        )
        for name, model in MODELS.items()
    ]
    run_distributed(train_all, world_size, runs)
    run_distributed(export_all, 1, tmp_path)


def export_all(folder: Path) -> None:
    """Export, check and import the checkpoint of every model in ``folder``."""
    for name, model in MODELS.items():
        export, checkpoint = folder / name / "hf", latest_checkpoint(folder / name)
        assert checkpoint
        export.mkdir()
        reader = CheckpointReader(checkpoint)
        write_model(export, reader, model, SmallVocabulary())
        assert prove(export, reader, model, "whole").passed
        exported = replace(model, num_query_groups=0) if model.architecture == "gpt2" else model  # GPT-2 has no groups
        assert AutoModelForCausalLM.from_pretrained(export).num_parameters() == exported.num_parameters(VOCAB_SIZE)
        assert_imports_exactly(export, reader, model)


def assert_imports_exactly(export: Path, reader: CheckpointReader, model: ModelConfig) -> None:
    """Assert that the table gives the checkpoint's tensors from the export, bit by bit."""
    returned = dict(from_hf_state(StoredWeights(export), model, VOCAB_SIZE))
    assert set(returned) == set(reader.parameters)
    for name, tensor in returned.items():
        rows = slice(VOCAB_SIZE) if name in (WORD_EMBEDDINGS, OUTPUT_LAYER) else slice(None)
        assert torch.equal(tensor[rows], reader.read_parameter(name)[rows]), name
