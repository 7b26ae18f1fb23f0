"""Interface of the updaters, which complete the accumulated gradients of a step and then apply or discard them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from pause_megatron.errors import UserError

_CLIP_EPSILON = 1e-6
"""Added to the norm before clipping, as PyTorch and DeepSpeed do."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """Outcome of an optimizer step; equal on every rank."""

    applied: bool
    """False when the gradients were not finite: no weight changed. Under fp16 the loss scale was lowered instead."""
    grad_norm: float
    """Global gradient norm before clipping; infinite when not applied."""
    loss_scale: float
    """Factor of the loss in the backward pass; 1 except under fp16."""
    gradient_scale: float
    """Factor of the accumulated gradients, averaged over the data-parallel ranks, relative to those of the mean loss
    over valid targets: the loss scale, times valid targets per token."""


class Updater(ABC):
    """Completes and applies the gradients of one engine."""

    def __init__(self, zero: Any) -> None:
        """``zero`` is DeepSpeed's optimizer."""
        self._zero = zero

    @property
    def multiple(self) -> float:
        """Factor of the completed gradients relative to those of the unscaled loss, averaged over all ranks."""
        return float(self._zero.loss_scale)

    def accumulating(self) -> AbstractContextManager[None]:
        """Context of every backward pass of a step but the last; Megatron-core's ``no_sync_func``."""
        return nullcontext()

    @abstractmethod
    def complete(self) -> torch.Tensor:
        """Reduce the accumulated gradients; call it once, after the last backward pass of a step.

        Returns:
            This rank's summand of the squared gradient norm, fp64 scalar on the device; the sum over all ranks is the
            square of the norm. The host does not wait for it.
        """

    def update(self, learning_rate: float, *, grad_norm: float, targets_per_token: float) -> Update:
        """Clip the completed gradients and update the weights, unless ``grad_norm`` is not finite.

        Args:
            learning_rate: of this step.
            grad_norm: global norm of the gradient of the mean loss over valid targets.
            targets_per_token: the accumulated gradients are those of the mean over valid targets times this.

        Raises :class:`UserError` when fp16's loss scale cannot be lowered any further.
        """
        loss_scale = float(self._zero.loss_scale)
        divisor = self.multiple * targets_per_token
        if self._zero.clip_grad > 0:
            divisor *= max((grad_norm + _CLIP_EPSILON) / self._zero.clip_grad, 1.0)
        applied = math.isfinite(grad_norm)
        with _explained_errors():
            if applied:
                self._apply(learning_rate, divisor)
            else:
                self._skip()
        return Update(
            applied=applied,
            grad_norm=grad_norm if applied else math.inf,
            loss_scale=loss_scale,
            gradient_scale=loss_scale * targets_per_token,
        )

    @abstractmethod
    def discard(self) -> None:
        """Drop the gradients; the optimizer does not move."""

    @abstractmethod
    def publish_weights(self) -> None:
        """Copy the fp32 master weights to the model's own, as an update does. Collective."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until the collectives of the last update are complete; a process must do so before it ends."""

    @abstractmethod
    def _apply(self, learning_rate: float, divisor: float) -> None:
        """Update the weights with the gradients divided by ``divisor``, and drop the gradients."""

    @abstractmethod
    def _skip(self) -> None:
        """Drop gradients that are not finite; lower fp16's loss scale."""


@contextmanager
def _explained_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if "minimum" in str(error):  # DeepSpeed's text when the loss scale is at its minimum
            raise UserError(f"fp16: {error}; the gradients are not finite at any scale, train in bf16") from error
        raise
