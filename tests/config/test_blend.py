"""Folders and weights as they are written on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.blend import BlendComponent, parse_blend
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import TrainingConfig
from pause_megatron.errors import UserError


def parsed(*values: str) -> list[tuple[str, float | None]]:
    return [(str(part.folder), part.weight) for part in parse_blend("--data", values)]


def test_folders_alone_have_no_weights() -> None:
    assert parsed("a") == [("a", None)]
    assert parsed("a", "b", "c") == [("a", None), ("b", None), ("c", None)]


def test_weights_stand_before_their_folders() -> None:
    assert parsed("0.7", "a", "30", "b/c") == [("a", 0.7), ("b/c", 30.0)]


def test_weight_of_a_single_folder_means_nothing() -> None:
    assert parse_blend("--data", ["0.7", "a"]) == (BlendComponent(folder=Path("a"), weight=None),)


def test_folder_named_like_a_number_is_written_as_a_path() -> None:
    assert parsed("./2024", "2023/") == [("2024", None), ("2023", None)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["0.7", "a", "b"], r"--data 0\.7 a b: expected a weight before each folder, found 'b'"),
        (["a", "0.3"], "found 'a 0.3'"),
        (["a", "b", "0.3", "c"], "found 'a b'"),
        (["0.3", "0.7", "a"], "found '0.3 0.7'"),
        (["2024"], r"a folder with a numeric name as \./NUMBER"),
        (["0", "a", "1", "b"], "--data 0 a: the weight must be a positive number"),
        (["1", "a", "-0.5", "b"], "--data -0.5 b: the weight must be"),
        (["nan", "a", "1", "b"], "--data nan a: the weight must be"),
        (["inf", "a", "1", "b"], "--data inf a: the weight must be"),
    ],
)
def test_malformed_blend_is_refused(values: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_blend("--data", values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": ("0.7", "a", "b")}, "--data 0.7 a b"),
        ({"data": ()}, "--data: give a dataset folder"),
        ({"data": ("a",), "validation_data": ("-1", "v", "1", "w")}, "--validation-data -1 v"),
    ],
)
def test_malformed_blend_is_refused_with_the_configuration(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PretrainConfig(
            output=Path("o"),
            tokenizer=Path("t"),
            deepspeed=Path("d"),
            training=TrainingConfig(train_iters=1),
            **settings,
        )
