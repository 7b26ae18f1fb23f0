import numpy as np
import pytest
import torch

from pause_megatron.pauses.positions import most_real_tokens, shared_positions

P = 2


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("tokens", "positions"),
    [
        ([10, 11, 12], [0, 1, 2]),
        ([10, P, P, 11, 12, P], [0, 0, 0, 1, 2, 2]),
        ([P, P, 10, P, 11], [0, 0, 0, 0, 1]),
        ([P, P], [0, 0]),
        ([[10, P], [P, 10]], [[0, 0], [0, 0]]),
    ],
)
def test_a_pause_has_the_index_of_the_real_token_before_it(kind, tokens, positions):
    found = shared_positions(kind(tokens) != P)
    assert found.tolist() == positions
    assert str(found.dtype).endswith("int64")


def test_most_real_tokens_are_those_of_a_sequence_written_out():
    for pauses in range(1, 4):
        for interval in range(1, 4):
            written = ([True] * interval + [False] * pauses) * 5
            for length in range(len(written)):
                assert most_real_tokens(length, pauses, interval) == sum(written[:length])
