"""Wrong keys and values of a study are refused by file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pause_megatron.errors import UserError

from .grids import jobs_of
from .studies import TRAIN, study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, r"pretrain: unknown key 'sedes'; did you mean 'seeds'"),
        ({"models": None}, r"pretrain: 'models' is missing; add it, for example 'stdpt: \{pauses: none\}'"),
        ({"models": {"a": {}}}, r"models: a: needs either 'pauses' or 'data'"),
        ({"models": {"a": {"pauses": "often"}}}, r"models: a: pauses: Invalid enum value 'often'"),
        ({"models": {"a": {"pauses": "none", "pause_rate": 0.1}}}, r"a: pause_rate: not used by 'pauses: none'"),
        ({"models": {"a": {"pauses": "sequence", "pause_rate": 2}}}, r"a: --pause-rate 2.*: must be below 1"),
        ({"models": {"a": {"pauses": "every", "pauses_per_token": 2}}}, r"a: --pauses-per-token 2: .*multiple of 3"),
        ({"models": {"a": {"pauses": "none"}, "b": {"pauses": "none"}}}, r"b: has the same data and settings as a"),
        ({"models": {"a/b": {"pauses": "none"}}}, r"models: 'a/b' cannot be part of file names"),
        ({"models": {"a": {"data": "x", "gaps": "repeat"}}}, r"a: gaps: not used with 'data'"),
        ({"sizes": ["huge"]}, r"sizes: unknown preset 'huge'; choose from .*130m"),
        ({"sizes": {"mine": {"layers": 2}}}, r"sizes: mine: unknown key 'layers'"),
        ({"train": {"train_iters": 5}}, r"train: 'deepspeed' is missing"),
        ({"train": {**TRAIN, "seed": 5}}, r"train: seed: other keys of the grid set it"),
        ({"train": {**TRAIN, "micro_batch_size": 0}}, r"stdpt of size tiny: --micro-batch-size 0: must be at least 1"),
        ({"preprocess": {"pauses": "none"}}, r"preprocess: pauses: other keys of the grid set it"),
        ({"tokenizer": {"vocabulary": 5}}, r"tokenizer: unknown key 'vocabulary'"),
        ({"export": {"dtype": "int3"}}, r"export: dtype: Invalid enum value 'int3'"),
        ({"text": []}, r"pretrain: 'text' is missing"),
        ({"seeds": []}, r"pretrain: 'seeds' is empty"),
        ({"processes": 0}, r"pretrain: parts, processes: must be at least 1"),
        ({"preprocess": {"seq_length": 512}}, r"stdpt of size tiny: .*512 tokens.*max_position_embeddings.*256"),
    ],
)
def test_wrong_study_is_refused_by_file_and_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = study(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as refused:
        jobs_of(config)
    assert str(refused.value).startswith(f"--grid {config.grid}: pretrain")
