import numpy as np
import torch

from pause_megatron.pauses.loss_mask import loss_mask, pause_runs

PAUSE = 2
TOKENS = [5, PAUSE, PAUSE, 6, 7, PAUSE]


def test_loss_is_dropped_where_the_target_is_pause():
    labels = np.array(TOKENS[1:])
    assert loss_mask(labels, PAUSE).tolist() == [False, False, True, True, False]


def test_numpy_and_torch_agree():
    labels = np.array([TOKENS[1:], TOKENS[:-1]])
    mask = loss_mask(torch.from_numpy(labels), PAUSE)
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), loss_mask(labels, PAUSE))


def test_pause_runs_count_the_consecutive_pauses_up_to_each_token():
    rows = torch.tensor([TOKENS, [PAUSE, PAUSE, 5, PAUSE, 6, 7], [PAUSE] * 6])
    assert pause_runs(rows, PAUSE).tolist() == [[0, 1, 2, 0, 0, 1], [1, 2, 0, 1, 0, 0], [1, 2, 3, 4, 5, 6]]
