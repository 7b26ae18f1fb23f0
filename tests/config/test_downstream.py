from pathlib import Path

import pytest

from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig, GenerateConfig
from pause_megatron.errors import UserError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_pauses_ft": -1}, "--num-pauses-ft -1: must be at least 0"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: expected a positive number"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: expected a positive number"),
        ({"adam_beta2": 1.0}, r"--adam-beta2 1.0: expected a number in \[0, 1\)"),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "--gradient-accumulation-steps 4 does not divide"),
    ],
)
def test_finetuning_settings_that_cannot_work_name_their_flag(setting, message):
    with pytest.raises(UserError, match=message):
        FinetuneConfig(model=Path("m"), task="parity", output=Path("o"), **setting)


def test_evaluation_and_generation_settings_that_cannot_work_name_their_flag():
    with pytest.raises(UserError, match="--limit 0: must be at least 1"):
        EvaluateConfig(model=Path("m"), task="parity", output=Path("o"), limit=0)
    with pytest.raises(UserError, match="--temperature -1: must be at least 0"):
        GenerateConfig(model=Path("m"), prompt="", temperature=-1)


def test_presets_are_settings_of_finetuning():
    for preset in FinetuneConfig.PRESETS.values():
        FinetuneConfig(model=Path("m"), task="parity", output=Path("o"), **preset)
