"""Datasets of a study are recognised by a second run, and differences are named, for each setting of each strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.preprocess import USED_BY_STRATEGY, InsertionConfig
from pause_megatron.experiments.grid_settings import INSERTION_KEYS
from pause_megatron.experiments.job_outputs import difference
from tests.chain import SEQ_LENGTH, preprocess_config, texts, write_dataset, write_text_and_tokenizer

OTHERS: dict[str, Any] = {
    "pause_rate": 0.2,
    "rates": "drawn",
    "gaps": "distinct",
    "trimmed": "drop",
    "pauses_per_token": 3,
    "pause_interval": 3,
}
"""Another value for each setting of an insertion."""
CASES = [(strategy, key) for strategy, keys in USED_BY_STRATEGY.items() for key in (None, *keys)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    write_text_and_tokenizer(folder)
    return folder


def test_every_setting_has_another_value_and_a_key_in_studies() -> None:
    assert (
        {key for keys in USED_BY_STRATEGY.values() for key in keys} == set(OTHERS) == set(INSERTION_KEYS) - {"pauses"}
    )


@pytest.mark.parametrize(("strategy", "key"), CASES)
def test_a_dataset_is_recognised_by_the_settings_that_made_it(strategy: str, key: str | None, chain: Path) -> None:
    settings = {"pauses": strategy} | ({key: OTHERS[key]} if key else {})
    name = f"{strategy}-{key}"
    output = write_dataset(chain, name, **settings)
    config = preprocess_config(
        input=texts(chain, "train"),
        tokenizer=chain / "tokenizer",
        output=output,
        engine="serial",
        seq_length=SEQ_LENGTH,
        **settings,
    )
    assert difference(config) is None
    if key:
        default = getattr(InsertionConfig(), key)
        asked = replace(config, insertion=replace(config.insertion, **{key: default}))
        found = difference(asked)
        assert found == f"{output}: was made with {key} {OTHERS[key]}, but the grid has {default}"
