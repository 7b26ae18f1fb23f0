"""Configurations of tests: changes of settings by their flat names, as flags do, and the shortest finetuning."""

from pathlib import Path
from typing import TypeVar

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.config.serialize import build, flat_values

Config = TypeVar("Config")


def changed(config: Config, **settings) -> Config:
    """``config`` with other ``settings``, e.g. ``changed(config, num_pauses_ft=4)``."""
    return build(type(config), {**flat_values(config), **settings})


def one_step(model: Path, parity_data: Path, output: Path) -> FinetuneConfig:
    """A finetuning of one step on two examples of parity, with one pause each."""
    return FinetuneConfig(
        model=model,
        task="parity",
        data=parity_data,
        output=output,
        pausing=FinetunePausing(num_pauses_ft=1),
        steps=1,
        batch_size=2,
        warmup_steps=0,
    )
