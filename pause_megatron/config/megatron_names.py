"""Names of Megatron-LM's flags for settings of ``pause-megatron pretrain``, so that its users need not relearn them.

Flags with the same meaning are aliases. Others state a setting in another unit; a second setting converts them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pause_megatron.errors import UserError

MEGATRON_ALIASES = {
    "--data-path": "--data",
    "--train-data-path": "--data",
    "--valid-data-path": "--validation-data",
    "--data-cache-path": "--data-cache",
    "--save": "--output",
    "--pretrained-checkpoint": "--initial-checkpoint",
    "--norm-epsilon": "--layernorm-epsilon",
    "--lr": "--learning-rate",
    "--lr-decay-style": "--schedule",
    "--lr-warmup-fraction": "--warmup-fraction",
    "--eval-interval": "--validation-interval",
    "--save-retain-interval": "--keep-every",
    "--exit-duration-in-mins": "--exit-duration",
    "--distributed-timeout-minutes": "--collective-timeout",
}
"""Megatron-LM's flag to ours with the same meaning."""


@dataclass(frozen=True, kw_only=True)
class ConvertedFlag:
    """A flag of Megatron-LM that states one of our settings in another unit."""

    field: str
    """Our setting."""
    needs: str
    """The setting that the conversion needs."""
    kind: type
    """Type of the flag's value."""
    convert: Callable[[float, float], float]
    """Return our setting, from the flag's value and the needed setting."""
    doc: str
    """Help text."""


def _iterations(samples: float, batch_size: float) -> float:
    if samples % batch_size:
        raise UserError(
            f"--train-samples {samples:.0f}: is not a multiple of --global-batch-size {batch_size:.0f}; give"
            " --train-iters, the number of steps"
        )
    return samples // batch_size


MEGATRON_CONVERTED = {
    "train_samples": ConvertedFlag(
        field="train_iters",
        needs="global_batch_size",
        kind=int,
        convert=_iterations,
        doc="Sequences of the run: sets --train-iters to this number / --global-batch-size.",
    ),
    "min_lr": ConvertedFlag(
        field="min_learning_rate_fraction",
        needs="learning_rate",
        kind=float,
        convert=lambda rate, peak: rate / peak,
        doc="Learning rate at the end: sets --min-learning-rate-fraction to this rate / --learning-rate.",
    ),
    "lr_warmup_iters": ConvertedFlag(
        field="warmup_fraction",
        needs="train_iters",
        kind=int,
        convert=lambda steps, train_iters: steps / train_iters,
        doc="Steps with linear warmup: sets --warmup-fraction to this number / --train-iters.",
    ),
    "lr_wsd_decay_iters": ConvertedFlag(
        field="decay_fraction",
        needs="train_iters",
        kind=int,
        convert=lambda steps, train_iters: steps / train_iters,
        doc="Steps with decay under --schedule wsd: sets --decay-fraction to this number / --train-iters.",
    ),
    "eval_iters": ConvertedFlag(
        field="validation_sequences",
        needs="global_batch_size",
        kind=int,
        convert=lambda batches, batch_size: batches * batch_size,
        doc="Batches of a validation: sets --validation-sequences to this number x --global-batch-size.",
    ),
}
"""Megatron-LM's flag to its conversion, in the order in which they are converted."""
