from pathlib import Path

import pytest

from pause_megatron.cli.main import parse
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig, GenerateConfig
from pause_megatron.config.pausing import pause_range
from pause_megatron.config.serialize import build
from pause_megatron.errors import UserError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_pauses_ft": -1}, "--num-pauses-ft -1: give a number of at least 0, or a range such as 0..50"),
        ({"num_pauses_ft": "many"}, "--num-pauses-ft many: give a number"),
        ({"num_pauses_ft": "..50"}, r"--num-pauses-ft \.\.50: give a number"),
        ({"num_pauses_ft": "50..10"}, r"--num-pauses-ft 50\.\.10: give a number"),
        ({"pause_placement": "before-marker"}, "before-marker: needs a marker; give --pause-marker"),
        ({"pause_placement": "after-marker"}, "after-marker: needs a marker; give --pause-marker"),
        ({"pause_placement": "after-marker", "pause_marker": ""}, "--pause-marker '': is empty"),
        ({"pause_marker": "A:"}, "--pause-marker 'A:': not used by --pause-placement append"),
        ({"filler": ""}, "--filler '': is empty; give a text such as"),
        ({"filler": ".", "pause_inputs": "repeat"}, "--filler '.': cannot be combined with --pause-inputs repeat"),
        (
            {"pause_placement": "prepend", "pause_inputs": "repeat"},
            "--pause-inputs repeat: there may be no token before",
        ),
        ({"task": "sudoku"}, r"--task sudoku: unknown; tasks: .*lookup, natural_questions, parity"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: must be positive"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: must be positive"),
        ({"adam_beta2": 1.0}, "--adam-beta2 1.0: must be at least 0 and below 1"),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "--gradient-accumulation-steps 4: must divide"),
        ({"deepspeed": Path("z.json"), "fsdp": "full_shard"}, "--deepspeed z.json: cannot be combined with --fsdp"),
        ({"fsdp_config": Path("f.json")}, "--fsdp-config f.json: not used without --fsdp; give --fsdp too"),
        ({"fsdp": "full_shard", "lora_rank": 4}, "--lora-rank 4: cannot change sharded weights; remove --fsdp"),
    ],
)
def test_wrong_finetuning_settings_name_their_flag(setting, message):
    with pytest.raises(UserError, match=message):
        build(FinetuneConfig, {"model": Path("m"), "task": "parity", "output": Path("o"), **setting})


def test_a_number_of_pauses_may_be_a_range():
    flags = ["--model", "m", "--task", "parity", "--output", "o", "--num-pauses-ft"]
    assert pause_range(parse(FinetuneConfig, "finetune", [*flags, "10"]).pausing.num_pauses_ft) == (None, 10)
    assert pause_range(parse(FinetuneConfig, "finetune", [*flags, "0..50"]).pausing.num_pauses_ft) == (0, 50)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"limit": 0}, "--limit 0: must be at least 1"),
        ({"num_pauses_inf": (0, -1)}, "--num-pauses-inf -1: must be at least 0"),
        ({"num_pauses_inf": ()}, "--num-pauses-inf: no number; give at least one"),
        ({"num_pauses_inf": (5, 0, 5)}, "--num-pauses-inf 5 0 5: give each number only once"),
        (
            {"num_pauses_inf": (0, 5)},
            r"--output o.json: one file for 2 results; name it like o-inf{num_pauses_inf}.json",
        ),
        ({"output": Path("o{num_pauses_inf}.json")}, "{num_pauses_inf} needs a number; give --num-pauses-inf"),
    ],
)
def test_wrong_evaluation_settings_name_their_flag(setting, message):
    with pytest.raises(UserError, match=message):
        build(EvaluateConfig, {"model": Path("m"), "task": "parity", "output": Path("o.json"), **setting})


def test_each_number_of_pauses_is_an_evaluation_with_its_own_file():
    flags = ["--model", "m", "--task", "parity", "--output", "r/inf{num_pauses_inf}.json", "--num-pauses-inf"]
    several = parse(EvaluateConfig, "evaluate", [*flags, "0", "10"]).each_number()
    assert several == [
        build(
            EvaluateConfig,
            {"model": Path("m"), "task": "parity", "output": Path(f"r/inf{n}.json"), "num_pauses_inf": n},
        )
        for n in (0, 10)
    ]
    assert parse(EvaluateConfig, "evaluate", [*flags, "10"]).each_number() == several[1:]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"prompt": ()}, "--prompt: no text; give at least one"),
        ({"temperature": -1}, "--temperature -1: must be at least 0"),
        ({"num_beams": 0}, "--num-beams 0: must be at least 1"),
        ({"top_k": -1}, "--top-k -1: must be at least 0"),
        ({"top_p": 0.0, "temperature": 1.0}, "--top-p 0.0: must be above 0 and at most 1"),
        ({"top_p": 1.5, "temperature": 1.0}, "--top-p 1.5: must be above 0 and at most 1"),
        ({"top_k": 5}, "--top-k 5: has no effect with --temperature 0"),
        ({"top_p": 0.9}, "--top-p 0.9: has no effect with --temperature 0"),
        (
            {"pause_placement": "prepend", "pause_marker": "A:"},
            "--pause-marker 'A:': not used by --pause-placement pre",
        ),
        ({"num_pauses_inf": -1}, "--num-pauses-inf -1: must be at least 0"),
        ({"num_pauses_inf": (0, 10)}, "--num-pauses-inf 0 10: only 'evaluate' takes several numbers; give one"),
    ],
)
def test_wrong_generation_settings_name_their_flag(setting, message):
    with pytest.raises(UserError, match=message):
        build(GenerateConfig, {"model": Path("m"), "prompt": ("",), **setting})


def test_presets_are_settings_of_finetuning():
    for preset in FinetuneConfig.PRESETS.values():
        FinetuneConfig(model=Path("m"), task="parity", output=Path("o"), **preset)
