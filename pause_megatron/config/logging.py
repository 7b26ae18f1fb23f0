"""What a run reports about itself, how often and where."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Progress lines and metrics.jsonl are always written; the rest can be switched on. docs/watching.md explains the
    figures."""

    log_interval: int = 10
    """Steps between progress lines."""
    tensorboard: bool = False
    """Write TensorBoard event files to OUTPUT/tensorboard too; needs the package tensorboard."""
    wandb_project: str = ""
    """Report to this Weights & Biases project too; needs the package wandb. Empty: no."""
    peak_tflops: float = 0.0
    """Peak rate of one device in TFLOP/s, which utilisation (MFU) is measured against; 0: the datasheet's, where the
    device is known."""

    def __post_init__(self) -> None:
        require_at_least(1, log_interval=self.log_interval)
        require_at_least(0, peak_tflops=self.peak_tflops)
        if self.tensorboard:
            _require_package("tensorboard", "--tensorboard")
        if self.wandb_project:
            _require_package("wandb", f"--wandb-project {self.wandb_project}")


def _require_package(name: str, flag: str) -> None:
    """Raise :class:`UserError` when the package ``name``, which ``flag`` needs, is not installed."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # a mere folder of that name, as both tools make, has no origin
        raise UserError(f"{flag}: the package {name} is not installed; run 'pip install {name}', or leave the flag out")
