from pathlib import Path

import pytest

from pause_megatron.cli.main import parse
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig, GenerateConfig, pause_range
from pause_megatron.errors import UserError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_pauses_ft": -1}, "--num-pauses-ft -1: expected a number of at least 0, or a range such as 0..50"),
        ({"num_pauses_ft": "many"}, "--num-pauses-ft many: expected a number"),
        ({"num_pauses_ft": "..50"}, r"--num-pauses-ft \.\.50: expected a number"),
        ({"num_pauses_ft": "50..10"}, r"--num-pauses-ft 50\.\.10: expected a number"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: expected a positive number"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: expected a positive number"),
        ({"adam_beta2": 1.0}, r"--adam-beta2 1.0: expected a number in \[0, 1\)"),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "--gradient-accumulation-steps 4 does not divide"),
        ({"deepspeed": Path("z.json"), "fsdp": "full_shard"}, "--deepspeed and --fsdp full_shard both split the work"),
        ({"fsdp_config": Path("f.json")}, "--fsdp-config f.json: give --fsdp too"),
        ({"fsdp": "full_shard", "lora_rank": 4}, "--lora-rank 4 with --fsdp: .*cannot be merged"),
    ],
)
def test_finetuning_settings_that_cannot_work_name_their_flag(setting, message):
    with pytest.raises(UserError, match=message):
        FinetuneConfig(model=Path("m"), task="parity", output=Path("o"), **setting)


def test_a_number_of_pauses_may_be_a_range():
    flags = ["--model", "m", "--task", "parity", "--output", "o", "--num-pauses-ft"]
    assert pause_range(parse(FinetuneConfig, "finetune", [*flags, "10"]).num_pauses_ft) == (None, 10)
    assert pause_range(parse(FinetuneConfig, "finetune", [*flags, "0..50"]).num_pauses_ft) == (0, 50)


def test_evaluation_settings_that_cannot_work_name_their_flag():
    with pytest.raises(UserError, match="--limit 0: must be at least 1"):
        EvaluateConfig(model=Path("m"), task="parity", output=Path("o"), limit=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"prompt": ()}, "--prompt: expected at least one text"),
        ({"temperature": -1}, "--temperature -1: must be at least 0"),
        ({"num_beams": 0}, "--num-beams 0: must be at least 1"),
        ({"top_k": -1}, "--top-k -1: must be at least 0"),
        ({"top_p": 0.0, "temperature": 1.0}, "--top-p 0.0: expected a number above 0 and up to 1"),
        ({"top_p": 1.5, "temperature": 1.0}, "--top-p 1.5: expected a number above 0 and up to 1"),
        ({"top_k": 5}, "--top-k 5 limits sampling, which --temperature 0 does not do"),
        ({"top_p": 0.9}, "--top-p 0.9 limits sampling, which --temperature 0 does not do"),
        ({"pause_placement": "before-marker"}, "before-marker: say before which text, with --pause-marker"),
        ({"pause_placement": "prepend", "pause_marker": "A:"}, "--pause-marker 'A:' is for --pause-placement before-m"),
    ],
)
def test_generation_settings_that_cannot_work_name_their_flag(setting, message):
    with pytest.raises(UserError, match=message):
        GenerateConfig(**{"model": Path("m"), "prompt": ("",), **setting})


def test_presets_are_settings_of_finetuning():
    for preset in FinetuneConfig.PRESETS.values():
        FinetuneConfig(model=Path("m"), task="parity", output=Path("o"), **preset)
