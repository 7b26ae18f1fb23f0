"""Parameters are divided into buckets in the order of the forward pass; vectors are a group without weight decay."""

from __future__ import annotations

import torch

from pause_megatron.config.deepspeed import deepspeed_file
from pause_megatron.engine.parameter_groups import bucket_elements, parameter_groups
from pause_megatron.model.parameters import NamedParameter, Shard
from tests.training.runs import Run


def parameter(name: str, *shape: int, **flags: bool) -> NamedParameter:
    value = torch.nn.Parameter(torch.zeros(shape))
    for flag, is_set in flags.items():
        setattr(value, flag, is_set)
    shard = Shard(name=name, global_shape=shape, dim=None, blocks=1, tp_rank=0, tp_size=1)
    return NamedParameter(parameter=value, shard=shard, tied_copy=False)


MODEL = [
    parameter("embedding", 10, 4),
    parameter("0.bias", 4, sequence_parallel=False),
    parameter("0.norm", 4, sequence_parallel=True),
    parameter("0.weight", 4, 4),
    parameter("1.weight", 4, 4),
    parameter("1.norm", 4, sequence_parallel=True),
    parameter("output", 10, 4),
]


def names(bucket: int | None, model: list[NamedParameter] = MODEL) -> list[list[str]]:
    found = {id(item.parameter): item.name for item in model}
    groups = parameter_groups(model, 0.1, bucket=bucket)
    assert [group["weight_decay"] for group in groups] == [0.0] + [0.1] * (len(groups) - 1)
    return [[found[id(value)] for value in group["params"]] for group in groups]  # type: ignore[attr-defined]


def test_buckets_are_full_at_their_size_and_keep_the_order() -> None:
    vectors = ["0.norm", "1.norm", "0.bias"]
    assert names(None) == [vectors, ["embedding", "0.weight", "1.weight", "output"]]
    assert names(32) == [vectors, ["embedding"], ["0.weight", "1.weight"], ["output"]]
    assert names(1) == [vectors, ["embedding"], ["0.weight"], ["1.weight"], ["output"]]


def test_tied_embeddings_have_a_bucket_of_their_own() -> None:
    tied = [parameter("embedding", 1, 4, shared_embedding=True), *MODEL[1:]]
    assert names(100, tied)[1:] == [["embedding"], ["0.weight", "1.weight", "output"]]
    at_the_end = [*MODEL[:-1], parameter("output", 10, 4, shared_embedding=True)]
    assert names(100, at_the_end)[1:] == [["embedding", "0.weight", "1.weight"], ["output"]]


def test_size_is_that_of_the_deepspeed_file() -> None:
    path = Run().deepspeed_file.path
    assert bucket_elements(deepspeed_file(path, {"zero_optimization": {"reduce_bucket_size": 5e6}})) == 5_000_000
    assert bucket_elements(deepspeed_file(path, {})) == 50_000_000
