"""Norms of flat gradients are exact."""

from __future__ import annotations

import pytest
import torch

from pause_megatron.engine.flat_gradients import sum_of_squares


def test_norm_of_many_values_is_exact_to_single_precision() -> None:
    values = torch.rand(5_000_001, generator=torch.Generator().manual_seed(0)) ** 4
    exact = values.double().square().sum()
    assert abs(sum_of_squares(values) / exact - 1) < 1e-6
    assert abs(values.norm().double().square() / exact - 1) > 1e-6  # an fp32 sum over all elements is less exact


@pytest.mark.parametrize("size", [0, 1, 4096, 4097])
def test_norm_takes_any_number_of_values(size: int) -> None:
    values = torch.arange(size, dtype=torch.float32)
    assert sum_of_squares(values).item() == pytest.approx(values.double().square().sum().item())
    assert sum_of_squares(values, values).item() == pytest.approx(2 * values.double().square().sum().item())


def test_values_that_are_not_finite_show_in_the_norm() -> None:
    for value in (float("nan"), float("inf")):
        assert not sum_of_squares(torch.tensor([1.0, value]), torch.ones(3)).isfinite()
