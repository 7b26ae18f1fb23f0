"""Which models can share the states of a prompt, found by a trial."""

import pytest

from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.shared_requests import AnswersAhead
from tests.downstream.answers import CHOICES, CONTEXTS, alone, assert_same_scores, scores, texts
from tests.downstream.foreign_models import SHAPES, make_model

PROBLEMS = {
    "mistral": "not every layer keeps",
    "mamba": "not every layer keeps",
    "lfm2": "not every layer keeps",
    "gptneo": "differ from those of reading everything",
    "longrope": "the length of a text changes",
    "bloom": None,
}
"""Models with a sliding window, without attention, with convolutions besides, with a window over columns of the cache,
and with rotary angles for long texts."""


@pytest.mark.parametrize("shape", [*SHAPES, *PROBLEMS])
def test_every_shape_is_tried(shape, tmp_path):
    """Models that cannot share read every row by itself."""
    folder = load_model_folder(make_model(shape, tmp_path / shape))
    problem = folder.sharing_problem
    expected = PROBLEMS.get(shape)
    assert expected in problem if expected else problem is None
    if problem is None:
        assert (folder.branching_problem is None) == (shape in SHAPES)  # answers have copies of the states else
    pausings = [Pausing(num_pauses=number, filler="a b c", filler_ids=(40, 41, 42)) for number in (0, 2, 5)]
    ahead = AnswersAhead(folder, pausings)
    for pausing in pausings:
        model, other = PauseLM(folder, pausing, 3, ahead), alone(folder, pausing, 3)
        assert_same_scores(scores(model, CHOICES[:6]), scores(other, CHOICES[:6]))
        assert texts(model, CONTEXTS[:3]) == texts(other, CONTEXTS[:3])
