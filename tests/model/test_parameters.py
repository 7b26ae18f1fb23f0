"""Names, shards and initial weights do not depend on the layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.conversion.one_layer import ONE_PROCESS
from pause_megatron.model.gpt import build_local_model
from pause_megatron.model.parameters import Shard, join_shards
from pause_megatron.parallel.groups import destroy_process_groups, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, PAUSE_ID, VOCAB_SIZE, Run


@pytest.mark.parametrize(("dim", "blocks"), [(0, 1), (1, 1), (0, 2), (None, 1)])
@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_joined_shards_are_the_complete_parameter(dim: int | None, blocks: int, tp_size: int) -> None:
    complete = torch.randn(16, 8)
    slices = [
        Shard(name="w", global_shape=(16, 8), dim=dim, blocks=blocks, tp_rank=rank, tp_size=tp_size).slice(complete)
        for rank in range(tp_size)
    ]
    assert torch.equal(join_shards(slices, dim=dim, blocks=blocks), complete)


def test_gate_and_up_projection_are_sharded_separately() -> None:
    gate_and_up = torch.arange(8)[:, None]  # rows 0-3 are the gate, 4-7 the up projection
    shard = Shard(name="w", global_shape=(8, 1), dim=0, blocks=2, tp_rank=1, tp_size=2)
    assert shard.slice(gate_and_up).flatten().tolist() == [2, 3, 6, 7]


def initial_weights(run: Run) -> list[tuple[Shard, np.ndarray]]:
    """Initial weights of this rank, as arrays, which outlive the process that sends them."""
    launch = detect_launch()
    layout = resolve_layout(
        run.parallel, world_size=launch.world_size, model=run.model, vocab_size=VOCAB_SIZE, deepspeed=run.deepspeed_file
    )
    initialize_process_groups(launch, layout, seed=0)
    try:
        local = build_local_model(run.model, layout, vocab_size=VOCAB_SIZE, seed=run.seed)
        return [(item.shard, item.parameter.detach().numpy().copy()) for item in local.parameters]
    finally:
        destroy_process_groups()


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_initial_weights_do_not_depend_on_the_layout(model: object) -> None:
    split = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    whole = {shard.name: weight for shard, weight in run_distributed(initial_weights, 1, Run(model=model))[0]}
    seen = set()
    for parameters in run_distributed(initial_weights, 4, Run(model=model, parallel=split)):
        for shard, weight in parameters:
            seen.add(shard.name)
            assert np.array_equal(shard.slice(torch.from_numpy(whole[shard.name])), weight), shard.name
    assert seen == set(whole)


def test_initial_weights_are_those_of_earlier_versions() -> None:
    weights = {shard.name: weight for shard, weight in run_distributed(initial_weights, 1, Run())[0]}
    expected = {  # the first numbers, of seed 7
        "embedding.word_embeddings.weight": [-0.0316693, 0.0194891, 0.0343714],
        "decoder.layers.0.self_attention.linear_proj.weight": [0.0099859, -0.0091785, 0.0055711],
        "decoder.layers.0.mlp.linear_fc1.weight": [0.0141034, 0.0032005, -0.0019527],
        "output_layer.weight": [0.0237421, 0.0205027, 0.0130332],
    }
    for name, numbers in expected.items():
        assert weights[name].flat[:3] == pytest.approx(numbers, abs=1e-7), name


def built() -> tuple[bool, dict[str, tuple[bool, int]]]:
    """Whether a build changes PyTorch's own random state, and how Megatron-core says that weights are sharded."""
    initialize_process_groups(detect_launch(), ONE_PROCESS, seed=0)
    before = torch.get_rng_state()
    local = build_local_model(LLAMA, ONE_PROCESS, vocab_size=VOCAB_SIZE, seed=0)
    changed = not torch.equal(before, torch.get_rng_state())
    matrices = {item.name: item.parameter for item in local.parameters if item.parameter.dim() == 2}
    flags = {name: (weight.tensor_model_parallel, weight.partition_dim) for name, weight in matrices.items()}
    destroy_process_groups()
    return changed, flags


def test_weights_are_drawn_once_and_keep_their_sharding() -> None:
    [(changed, flags)] = run_distributed(built, 1)
    assert not changed
    for name, (is_sharded, dim) in flags.items():
        assert is_sharded, name
        assert dim == (1 if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else 0), name


def test_pause_row_is_initialized_like_other_rows() -> None:
    weights = {shard.name: weight for shard, weight in run_distributed(initial_weights, 1, Run())[0]}
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        norms = np.linalg.norm(weights[name][:VOCAB_SIZE], axis=1)
        assert 0.5 * norms.mean() < norms[PAUSE_ID] < 1.5 * norms.mean()
