"""Exports compute the checkpoint's logits for every architecture, and an export that does not is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pause_megatron.checkpoint.checkpoint_folders import latest_checkpoint
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.conversion import ComparisonConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.conversion.proof import Method, compare_logits, proof_sequences, prove_export
from pause_megatron.conversion.table import from_hf_state, to_hf_state
from pause_megatron.conversion.to_hf import write_model
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import OUTPUT_LAYER, WORD_EMBEDDINGS
from pause_megatron.records.conversion import LogitComparison
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, PAUSE_ID, VOCAB_SIZE, Run, train

TP2_PP2 = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
PP2_VP2 = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
MODELS = {
    "gpt2": GPT2,
    "gpt2 tied": replace(GPT2, untie_embeddings_and_output_weights=False),
    "llama": LLAMA,
    "llama tied": replace(LLAMA, untie_embeddings_and_output_weights=False, num_query_groups=0),
    "gpt2 shared": replace(GPT2, pause_positions="shared"),
    "llama shared": replace(LLAMA, pause_positions="shared"),
}


SHORT = {"proof_sequences": 2, "proof_length": 16}
"""A check whose sequences leave some tokens and positions out."""
UNUSED_ROW = 41
"""Token and position that the sequences of the check do not have."""


class SmallVocabulary:
    """The ids of a tokenizer that an export needs."""

    vocab_size, pause_ids, eod_id = VOCAB_SIZE, [PAUSE_ID], 1


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few trained steps of every model, saved from four processes."""
    found = {}
    for name, model in MODELS.items():
        run = tmp_path_factory.mktemp(name.replace(" ", "_"))
        run_distributed(train, 4, Run(model=model, parallel=TP2_PP2, last_step=3, save=run / "checkpoints"))
        found[name] = latest_checkpoint(run)
    return found


def export_and_prove(checkpoint: Path, model: ModelConfig, folder: Path, swapped: str = "") -> float:
    """Export ``checkpoint`` and return the largest logit difference; ``swapped`` names a tensor to damage."""
    reader = CheckpointReader(checkpoint)
    undamaged = CheckpointReader(checkpoint)
    if swapped:
        read = reader.read_parameter
        reader.read_parameter = lambda name, key="master": (
            damage(read(name, key)) if name == swapped else read(name, key)
        )
    write_model(folder, reader, model, SmallVocabulary())
    comparisons = [prove(folder, undamaged, model, method) for method in ("whole", "layers")]
    assert all(comparison.pauses > 0 for comparison in comparisons)
    return max(comparison.max_abs_logit_difference for comparison in comparisons)


def prove(
    folder: Path, reader: CheckpointReader, model: ModelConfig, method: Method, tolerance: float = 1e-4
) -> LogitComparison:
    return prove_export(
        folder,
        reader.read_parameter,
        model,
        vocab_size=VOCAB_SIZE,
        num_tokens=VOCAB_SIZE,
        pause_ids=[PAUSE_ID],
        config=ComparisonConfig(tolerance=tolerance, proof=method, **SHORT),
    )


def damage(tensor: torch.Tensor) -> torch.Tensor:
    """Exchange the two halves of a matrix: gate and up, or two groups of heads."""
    return torch.cat(tensor.chunk(2)[::-1])


@pytest.mark.parametrize("name", MODELS)
def test_export_computes_the_checkpoints_logits(checkpoints: dict[str, Path], name: str, tmp_path: Path) -> None:
    difference = run_distributed(export_and_prove, 1, checkpoints[name], MODELS[name], tmp_path)[0]
    assert difference <= 1e-4


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("llama", "decoder.layers.0.mlp.linear_fc1.weight"),
        ("llama", "decoder.layers.1.self_attention.linear_qkv.weight"),
        ("gpt2", "decoder.layers.3.self_attention.linear_qkv.weight"),
    ],
)
def test_swapped_halves_are_refused(checkpoints: dict[str, Path], name: str, tensor: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="logits of the two models differ by up to"):
        run_distributed(export_and_prove, 1, checkpoints[name], MODELS[name], tmp_path, tensor)


def refused_rows(checkpoint: Path, model: ModelConfig, folder: Path, method: Method) -> list[str]:
    """Errors of exports that have one wrong element in an embedding."""
    errors = []
    reader = CheckpointReader(checkpoint)
    for number, name in enumerate(name for name in reader.parameters if name.startswith("embedding.")):
        damaged = CheckpointReader(checkpoint)
        damaged.read_parameter = lambda other, key="master", name=name: (  # type: ignore[method-assign]
            with_wrong_row(reader.read_parameter(other, key)) if other == name else reader.read_parameter(other, key)
        )
        (folder / str(number)).mkdir()
        write_model(folder / str(number), damaged, model, SmallVocabulary())
        try:
            prove(folder / str(number), reader, model, method)
        except UserError as error:
            errors.append(str(error))
    return errors


def with_wrong_row(tensor: torch.Tensor) -> torch.Tensor:
    """Change the row of a token or position that no sequence of the check has."""
    changed = tensor.clone()
    changed[UNUSED_ROW, 0] += 1e-3
    return changed


@pytest.mark.parametrize("method", ["whole", "layers"])
@pytest.mark.parametrize(("name", "embeddings"), [("gpt2", 2), ("llama", 1)])
def test_every_row_of_the_embeddings_is_compared(
    checkpoints: dict[str, Path], name: str, embeddings: int, method: Method, tmp_path: Path
) -> None:
    lengths = (SHORT["proof_sequences"], SHORT["proof_length"])
    tokens, positions = proof_sequences(*lengths, MODELS[name], num_tokens=VOCAB_SIZE, pause_ids=[PAUSE_ID])
    assert not (tokens == UNUSED_ROW).any()
    assert not (positions == UNUSED_ROW).any()
    [errors] = run_distributed(refused_rows, 1, checkpoints[name], MODELS[name], tmp_path, method)
    assert len(errors) == embeddings
    assert all(re.search(r"rows of embedding\.\w+\.weight .* differ by up to 1\.00e-03", error) for error in errors)


@pytest.mark.parametrize("name", MODELS)
def test_table_round_trip_gives_the_same_tensors(checkpoints: dict[str, Path], name: str) -> None:
    reader, model = CheckpointReader(checkpoints[name]), MODELS[name]
    exported = dict(to_hf_state(reader.read_parameter, model, VOCAB_SIZE))
    returned = dict(from_hf_state(exported.__getitem__, model, VOCAB_SIZE))
    assert set(returned) == set(reader.parameters)
    for parameter, tensor in returned.items():
        expected = reader.read_parameter(parameter)
        if parameter in (WORD_EMBEDDINGS, OUTPUT_LAYER):
            expected = expected[:VOCAB_SIZE]
            tensor = tensor[:VOCAB_SIZE]
        assert torch.equal(tensor, expected), parameter


def rename_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def add_index_of_nothing(folder: Path) -> None:
    rename_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {}}')


def change_rotary_base(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 2e4
    (folder / "config.json").write_text(json.dumps(config))


UNLOADABLE = {
    "file name": (rename_weights, "transformers cannot load it"),
    "index": (add_index_of_nothing, "transformers cannot load it|transformers reports missing keys"),
    "config": (change_rotary_base, "logits of the two models differ by up to"),
}


def prove_damaged(checkpoint: Path, folder: Path, damage: Callable[[Path], None], method: Method) -> None:
    reader = CheckpointReader(checkpoint)
    write_model(folder, reader, LLAMA, SmallVocabulary())
    assert prove(folder, reader, LLAMA, method).passed
    damage(folder)
    prove(folder, reader, LLAMA, method)


@pytest.mark.parametrize("method", ["whole", "layers"])
@pytest.mark.parametrize(("damage", "complaint"), UNLOADABLE.values(), ids=UNLOADABLE)
def test_an_export_that_transformers_reads_differently_is_refused(
    checkpoints: dict[str, Path], damage: Callable[[Path], None], complaint: str, method: Method, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run_distributed(prove_damaged, 1, checkpoints["llama"], tmp_path, damage, method)


def test_proof_sequences_come_with_and_without_pauses() -> None:
    tokens, positions = proof_sequences(4, 8, GPT2, num_tokens=VOCAB_SIZE, pause_ids=[PAUSE_ID])
    assert [bool((sequence == PAUSE_ID).any()) for sequence in tokens] == [False, True, False, True]
    assert int(tokens.max()) < VOCAB_SIZE
    assert positions[0].tolist() == positions[2].tolist() == list(range(8))
    assert positions[1][[0, -1]].tolist() == positions[3][[0, -1]].tolist() == [0, GPT2.max_position_embeddings - 1]


def test_pauses_of_proof_sequences_share_positions() -> None:
    shared = replace(GPT2, pause_positions="shared")
    tokens, positions = proof_sequences(2, 12, shared, num_tokens=VOCAB_SIZE, pause_ids=[PAUSE_ID])
    assert positions[0].tolist() == list(range(12))
    for index in range(1, 12):
        is_shared = bool(tokens[1, index] == PAUSE_ID) or bool((tokens[1, :index] == PAUSE_ID).all())
        assert bool(positions[1, index] == positions[1, index - 1]) == is_shared


def test_difference_above_the_tolerance_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="--tolerance 1e-12: logits"):
        run_distributed(prove_with_impossible_tolerance, 1, checkpoints["gpt2"], tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_does_not_pass(value: float) -> None:
    expected = torch.zeros(2, 3, 5)
    found = expected.clone()
    assert compare_logits(expected, found, tolerance=1e-4, pauses=0).passed
    found[0, 1, 2] = value
    assert not compare_logits(expected, found, tolerance=1e-4, pauses=0).passed


def prove_with_impossible_tolerance(checkpoint: Path, folder: Path) -> None:
    reader = CheckpointReader(checkpoint)
    write_model(folder, reader, GPT2, SmallVocabulary())
    try:
        prove(folder, reader, GPT2, "whole", tolerance=1e-12)
    except UserError as error:
        raise AssertionError(str(error)) from error
