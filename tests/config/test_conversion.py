from pathlib import Path

import pytest

from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.serialize import build
from pause_megatron.errors import UserError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tolerance": 0.0}, "--tolerance 0.0: must be positive"),
        ({"proof_sequences": 0}, "--proof-sequences 0: must be at least 1"),
        ({"bake_pauses": -1}, "--bake-pauses -1: must be at least 0"),
    ],
)
def test_conversion_settings_that_cannot_work_name_their_flag(setting, message):
    with pytest.raises(UserError, match=message):
        build(ConvertToHfConfig, {"checkpoint": Path("c"), "output": Path("o"), **setting})
