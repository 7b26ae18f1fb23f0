"""Changes settings of a configuration by their flat names, as flags do."""

from typing import TypeVar

from pause_megatron.config.serialize import build, flat_values

Config = TypeVar("Config")


def changed(config: Config, **settings) -> Config:
    """``config`` with other ``settings``, e.g. ``changed(config, num_pauses_ft=4)``."""
    return build(type(config), {**flat_values(config), **settings})
