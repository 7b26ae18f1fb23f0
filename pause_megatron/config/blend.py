"""Data blends: parses ``--data`` and ``--validation-data`` in Megatron's syntax, such as ``0.7 DIR_A 0.3 DIR_B``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BlendComponent:
    """One folder of a blend."""

    folder: Path
    """Dataset folder."""
    weight: float | None
    """Positive weight, relative to the sum of all weights; None without weights and for a single folder."""


def parse_blend(flag: str, values: Sequence[str]) -> tuple[BlendComponent, ...]:
    """Parse ``values`` of ``flag`` into folders, in their order.

    Raises :class:`UserError` when weights and folders do not alternate, or when a weight is not positive.
    """
    weights = [weight_of(value) for value in values]
    if not any(weight is not None for weight in weights):
        return tuple(BlendComponent(folder=Path(value), weight=None) for value in values)
    parts = []
    for position in range(0, len(values), 2):
        pair, weight = values[position : position + 2], weights[position]
        if weight is None or len(pair) < 2 or weights[position + 1] is not None:
            raise UserError(
                f"{flag} {' '.join(values)}: expected a weight before each folder, found '{' '.join(pair)}'; "
                "give WEIGHT FOLDER WEIGHT FOLDER, or only folders (write a folder with a numeric name as ./NUMBER)"
            )
        if not (weight > 0 and math.isfinite(weight)):
            raise UserError(f"{flag} {pair[0]} {pair[1]}: the weight must be a positive number, for example 0.7")
        parts.append(BlendComponent(folder=Path(pair[1]), weight=weight if len(values) > 2 else None))
    return tuple(parts)


def weight_of(value: str) -> float | None:
    """Return the weight that ``value`` is; None if it is a folder."""
    try:
        return float(value)
    except ValueError:
        return None
