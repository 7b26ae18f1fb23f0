"""Requests of the harness to random models, and their answers with every row read by itself."""

import copy

import pytest
from lm_eval.api.instance import Instance

from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.pausing import Pausing

LONG = "an expression that is much longer than all the positions this model has, " * 4
CHOICES = [
    ("The import statement is", " a name"),
    ("The import statement is", " binds a class and more"),
    ("The import statement is", " x"),
    ("a class is a", " y z"),
    ("a class is a", " statement that is an object"),
    ("x is", " z"),
    (LONG + "is", " value"),
    (LONG + "is", " a longer value than that"),
]
CONTEXTS = ["The import statement is", "x is", "a class is a", LONG + "is"]
NUMBERS = (0, 2, 5, 10)


def scores(model, pairs=CHOICES):
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    return model.loglikelihood(requests)


def texts(model, contexts=CONTEXTS, **settings):
    settings = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False, **settings}
    requests = [
        Instance("generate_until", {}, (context, copy.deepcopy(settings)), index)
        for index, context in enumerate(contexts)
    ]
    return model.generate_until(requests)


def alone(folder, pausing, batch_size=1) -> PauseLM:
    """A model that reads complete rows and decodes with stock ``generate``."""
    model = PauseLM(folder, pausing, batch_size)
    model._ahead.shares = False
    return model


def pausings_of(settings) -> list[Pausing]:
    numbers = (0, 1, 2) if settings.get("placement") == "every" else NUMBERS
    return [Pausing(num_pauses=number, **settings) for number in numbers]


def assert_same_scores(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5)
