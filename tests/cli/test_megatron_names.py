"""``pretrain`` takes Megatron-LM's names of its flags: as aliases, or converted from another unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pause_megatron.cli.flags import parse
from pause_megatron.config.megatron_names import MEGATRON_ALIASES, MEGATRON_CONVERTED
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flat_fields, flat_values
from pause_megatron.errors import UserError
from pause_megatron.training.schedule import learning_rate

PROGRAM = "pause-megatron pretrain"
REQUIRED = ["--data", "D", "--output", "O", "--tokenizer", "T", "--deepspeed", "zero1_bf16"]
VALUES = {"--data": "X", "--validation-data": "V", "--output": "S", "--schedule": "linear", "--warmup-fraction": "0.5"}
"""Values of flags that do not take the number 1."""


def parsed(*flags: str) -> PretrainConfig:
    config: PretrainConfig = parse(PretrainConfig, PROGRAM, list(flags))
    return config


@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
@pytest.mark.parametrize(("alias", "flag"), MEGATRON_ALIASES.items())
def test_alias_is_the_same_as_our_flag(alias: str, flag: str, form: str) -> None:
    value = VALUES.get(flag, "1")
    words = form.format(alias, value).split(), form.format(flag, value).split()
    one, other = (parsed(*REQUIRED, "--train-iters", "10", *each) for each in words)
    assert one == other
    assert one != parsed(*REQUIRED, "--train-iters", "10")
    underscored = [words[0][0].replace("-", "_").replace("__", "--", 1), *words[0][1:]]
    assert parsed(*REQUIRED, "--train-iters", "10", *underscored) == one


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train-samples", "2560"], {"train_iters": 10}),
        (["--train-samples", "2560", "--global-batch-size", "64"], {"train_iters": 40}),
        (["--train-iters", "100", "--lr", "3e-3", "--min-lr", "3e-4"], {"min_learning_rate_fraction": 0.1}),
        (["--train-iters", "100", "--min-lr", "0"], {"min_learning_rate_fraction": 0}),
        (["--train-iters", "100", "--lr-warmup-iters", "7"], {"warmup_fraction": 0.07}),
        (["--train-samples", "25600", "--lr-warmup-iters", "7"], {"warmup_fraction": 0.07}),
        (
            ["--train-iters", "100", "--lr-decay-style", "WSD", "--lr-wsd-decay-iters", "25"],
            {"schedule": "wsd", "decay_fraction": 0.25},
        ),
        (["--train-iters", "9", "--eval-iters", "3", "--global-batch-size", "32"], {"validation_sequences": 96}),
    ],
)
def test_flag_in_another_unit_sets_our_flag(flags: list[str], expected: dict[str, object]) -> None:
    values = flat_values(parsed(*REQUIRED, *flags))
    for name, value in expected.items():
        assert values[name] == pytest.approx(value) if isinstance(value, float) else values[name] == value


@pytest.mark.parametrize("steps", [1, 7, 333, 2999])
def test_warmup_in_steps_is_exact(steps: int) -> None:
    optimizer = parsed(*REQUIRED, "--train-iters", "3000", "--lr-warmup-iters", str(steps)).optimizer
    rates = [learning_rate(iteration, 3000, optimizer) for iteration in range(3000)]
    assert [rates[steps - 1], rates[steps]] == pytest.approx([optimizer.learning_rate] * 2)
    assert rates[: steps - 1] == sorted(rates[: steps - 1])
    assert all(rate < 0.9999 * optimizer.learning_rate for rate in rates[: steps - 1])


def test_file_gives_what_a_conversion_needs_and_is_overridden(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train_iters: 1000\nwarmup_fraction: 0.5\n", encoding="utf-8")
    config = parsed(*REQUIRED, "--config", str(path), "--lr-warmup-iters", "10")
    assert config.optimizer.warmup_fraction == 0.01
    assert config.training.train_iters == 1000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--train-iters", "10", "--lr-warmup-iters", "1", "--lr-warmup-fraction", "0.1"],
            "--lr-warmup-iters: sets --warmup-fraction, which is given too; give only one of them",
        ),
        (["--lr-warmup-iters", "1"], "--lr-warmup-iters: needs --train-iters; give it too"),
        (["--train-samples", "100"], "--train-samples 100: is not a multiple of --global-batch-size 256; give"),
        (["--train-iters", "1", "--min-lr", "0.1", "--lr", "0"], "--min-lr: needs --learning-rate; give it too"),
        (["--train-iters", "1", "--eval-iters", "x"], "--eval-iters: 'x' is not allowed; give a value of type INT"),
        (["--train-iters", "1", "--lr", "x"], "--learning-rate: 'x' is not allowed; give a value of type FLOAT"),
        (["--train-iters", "1", "--lr-warmup-fractoin", "0"], "--lr-warmup-fractoin: unknown flag; did you mean"),
    ],
)
def test_contradictions_and_wrong_values_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parsed(*REQUIRED, *flags)
    assert message in str(refused.value)


def test_every_name_belongs_to_a_setting_and_replaces_none() -> None:
    own = {f"--{name.replace('_', '-')}" for name in flat_fields(PretrainConfig)}
    assert set(MEGATRON_ALIASES.values()) <= own
    other = {*MEGATRON_ALIASES, *(f"--{name.replace('_', '-')}" for name in MEGATRON_CONVERTED)}
    assert not other & own
    assert {flag.field for flag in MEGATRON_CONVERTED.values()} <= flat_fields(PretrainConfig).keys()
