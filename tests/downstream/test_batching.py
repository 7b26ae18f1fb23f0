"""The attention mask decides which tokens change a model's logits."""

import pytest
import torch

from pause_megatron.downstream.batching import prefix_lm_mask
from tests.downstream.random_models import ARCHITECTURES, random_model

PREFIX, LENGTH = 4, 7


def logits_of(model, ids, mask, positions):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits


def influence(model, padding_left, padding_right, bidirectional):
    """Return [query, key]: whether another token at key changes the logits at query, both counted without padding."""
    width = padding_left + LENGTH + padding_right
    columns = torch.arange(width)[None]
    real = (columns >= padding_left) & (columns < padding_left + LENGTH)
    prefix = real & (columns < padding_left + PREFIX) & bidirectional
    mask = prefix_lm_mask(real, prefix, model.dtype)
    positions = (real.cumsum(1) - 1).clamp(min=0)
    ids = torch.randint(3, 90, (1, width), generator=torch.Generator().manual_seed(0))
    before = logits_of(model, ids, mask, positions)
    assert torch.isfinite(before).all()
    changes = torch.zeros(width, width, dtype=torch.bool)
    for key in range(width):
        changed = ids.clone()
        changed[0, key] = 95
        changes[:, key] = ((logits_of(model, changed, mask, positions) - before).abs() > 1e-6).any(-1)[0]
    content = slice(padding_left, padding_left + LENGTH)
    padding = [*range(padding_left), *range(padding_left + LENGTH, width)]
    assert not changes[content, padding].any(), "padding is seen"
    return changes[content, content]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("padding_left", "padding_right"), [(0, 0), (3, 0), (0, 2), (2, 2)])
def test_prefix_attends_both_ways_and_target_causally(architecture, attention, padding_left, padding_right):
    model = random_model(architecture, 100, attention=attention)
    expected = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    assert torch.equal(influence(model, padding_left, padding_right, bidirectional=False), expected)
    expected[:PREFIX, :PREFIX] = True
    assert torch.equal(influence(model, padding_left, padding_right, bidirectional=True), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_causal_mask_gives_the_models_own_logits(architecture):
    model = random_model(architecture, 100)
    ids = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids, dtype=torch.bool)
    mask = prefix_lm_mask(real, torch.zeros_like(real), model.dtype)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, attention_mask=mask).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_half_precision_survives_rows_that_are_all_padding():
    real = torch.tensor([[False, False, True]])
    mask = prefix_lm_mask(real, real, torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert torch.isfinite(mask.softmax(dim=-1)).all()
