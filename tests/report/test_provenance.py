"""Configurations in a report."""

from __future__ import annotations

import json

from pause_megatron.report.collect import Collected
from pause_megatron.report.provenance import configurations, differing

from .inputs import evaluation, grouped, results


def test_seeds_of_a_measurement_share_one_configuration() -> None:
    records = [evaluation(seed=seed) for seed in (1, 2, 3)]
    collected = Collected(evaluations=results(records), runs=())
    (found,) = configurations(collected, grouped(*records))
    assert found.heading == "parity: StdPT_StdFT, M_inf 0, seeds 1, 2 and 3"
    assert json.loads(found.json)["finetuning"]["seed"] == 1
    assert [source for source, _ in found.others] == ["1.json", "2.json"]
    for seed, (_, values) in zip((2, 3), found.others, strict=True):
        assert json.loads(values)["finetuning"].keys() == {"seed", "final_loss"}
        assert json.loads(values)["finetuning"]["seed"] == seed


def test_values_that_differ_are_listed_with_their_keys() -> None:
    base = {"a": 1, "b": {"c": 1, "d": 2}, "e": None, "f": [1]}
    assert differing({"a": 1, "b": {"c": 3, "d": 2}, "f": [1], "g": None}, base) == {
        "b": {"c": 3},
        "e": None,
        "g": None,
    }
    assert differing(base, base) == {}
