"""Training budgets of a study: shares of real tokens, equal real tokens, and budgets that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pause_megatron.errors import UserError
from pause_megatron.experiments.study_budget import real_share
from tests.chain import write_dataset, write_text_and_tokenizer

from .grids import jobs_of
from .studies import STUDY, by_name, run_of, study


def test_share_of_real_tokens_is_that_of_the_data(tmp_path: Path) -> None:
    from pause_megatron.config.preprocess import InsertionConfig
    from pause_megatron.config.study import StudyModel

    write_text_and_tokenizer(tmp_path)
    settings: list[dict[str, Any]] = [
        *({"pauses": "none"}, {"pauses": "sequence", "pause_rate": 0.3}, {"pauses": "document", "pause_rate": 0.3}),
        {"pauses": "every", "pauses_per_token": 3},
    ]
    for number, insertion in enumerate(settings):
        data = write_dataset(tmp_path, f"data{number}", **insertion)
        expected = real_share(StudyModel(data=data))
        found = real_share(StudyModel(insertion=InsertionConfig(seq_length=64, **insertion)))
        assert found == pytest.approx(expected, rel=0.01), insertion


def model(**train: Any) -> dict[str, Any]:
    return {"models": {**STUDY["pretrain"]["models"], "other": {"pauses": "none", "train": train}}}


def test_models_with_other_budgets_are_refused(tmp_path: Path) -> None:
    message = (
        r"models: other of size tiny: trains on 102,400 tokens, but stdpt trains on 51,200 tokens; .*'equal: nothing'"
    )
    with pytest.raises(UserError, match=message):
        jobs_of(study(tmp_path, **model(train_iters=200)))
    jobs_of(study(tmp_path, **model(train_iters=200, global_batch_size=4)))
    jobs_of(study(tmp_path, **model(train_iters=200), grid={"equal": "nothing"}))
    with pytest.raises(UserError, match=r"tenth of size tiny: trains on .* real tokens, but stdpt"):
        models = {"stdpt": {"pauses": "none"}, "tenth": {"pauses": "sequence", "train": {"train_iters": 100}}}
        jobs_of(study(tmp_path, models=models, grid={"equal": "real_tokens"}))
    with pytest.raises(UserError, match=r"Invalid enum value 'flops' - at `\$.equal`"):
        jobs_of(study(tmp_path, grid={"equal": "flops"}))


def test_equal_real_tokens_lengthen_the_runs_with_pauses(tmp_path: Path) -> None:
    models = {"stdpt": {"pauses": "none"}, "every": {"pauses": "every", "pauses_per_token": 3}}
    models |= {"ramped": {"pauses": "every", "train": {"rampup_batch_size": [2, 2, 60]}}}
    jobs = by_name(jobs_of(study(tmp_path, models=models, grid={"equal": "real_tokens"})))
    steps = {name: run_of(jobs[f"pretrain-{name}-pt3-tiny"]).training.train_iters for name in models}
    assert steps["stdpt"] == 100
    assert steps["every"] == 400
    assert steps["ramped"] == (10 + 5 + 4) + (1600 - 64) / 8  # steps of 2, 4 and 6 sequences, and then of 8
    equal_tokens = by_name(jobs_of(study(tmp_path, models={name: models[name] for name in ("stdpt", "every")})))
    assert run_of(equal_tokens["pretrain-every-pt3-tiny"]).training.train_iters == 100
