"""Validation helpers shared by the configuration classes."""

from __future__ import annotations

from pause_megatron.errors import UserError


def require_at_least(least: int, **values: float) -> None:
    """Raise :class:`UserError` that names the flag of the first of ``values`` (field name to value) below ``least``."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def require_fraction(**values: float) -> None:
    """Raise :class:`UserError` that names the flag of the first of ``values`` outside [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 0 and below 1")
