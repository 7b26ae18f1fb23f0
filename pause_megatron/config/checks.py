"""What configurations check alike."""

from __future__ import annotations

from pause_megatron.errors import UserError


def require_at_least(least: int, **values: float) -> None:
    """Raise :class:`UserError` naming the flag of the first of ``values`` (field name to value) below ``least``."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
