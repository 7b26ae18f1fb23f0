"""The command line of lm-evaluation-harness with this project's model class: ``pause-megatron lm-eval``.

The harness finds a model class by its name, and has no way to add one from another package, so this command adds
``pause_megatron`` and hands its arguments to the harness's own parser.
"""

import sys
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import lm_eval.models  # noqa: F401 - makes the other model classes known
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from pause_megatron.config.checks import suggestion
from pause_megatron.config.downstream import Precision
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.errors import UserError
from pause_megatron.parallel.process_device import choose_device

MODEL_NAME = "pause_megatron"
"""Name of the class for the harness's ``--model``."""


@register_model(MODEL_NAME)
class NamedPauseLM(PauseLM):
    """The model class that the harness makes from its ``--model_args``."""

    def __init__(
        self,
        pretrained: str,
        num_pauses: int | None = None,
        pause_placement: str | None = None,
        pause_marker: str | None = None,
        pause_interval: int | None = None,
        filler: str | None = None,
        pause_inputs: str | None = None,
        prefix_attention: str | None = None,
        precision: str = "fp32",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        """Load the folder ``pretrained``. Settings and defaults are those of ``pause-megatron evaluate``."""
        unknown.pop("trust_remote_code", None)  # which the harness adds
        if unknown:
            name = next(iter(unknown))
            known = [each for each in signature(NamedPauseLM.__init__).parameters if each not in ("self", "unknown")]
            raise UserError(f"--model_args {name}: unknown; {suggestion(name, known)}")
        if precision not in get_args(Precision):
            raise UserError(f"--model_args precision={precision}: unknown; give {' or '.join(get_args(Precision))}")
        if not str(batch_size).isdecimal() or not int(batch_size):
            raise UserError(f"--batch_size {batch_size}: must be a number; give 8, for example")
        kind = str(device or "cuda").partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise UserError(f"--device {device}: unknown; give cpu or cuda")
        choose_device("cpu" if kind == "cpu" else "auto")  # the harness's default is cuda, also without a GPU
        folder = load_model_folder(Path(pretrained), precision)  # type: ignore[arg-type]
        asked: dict[str, Any] = {
            "num_pauses_inf": num_pauses,
            "pause_placement": pause_placement,
            "pause_marker": pause_marker,
            "pause_interval": pause_interval,
            "filler": None if filler is None else str(filler),
            "pause_inputs": pause_inputs,
            "prefix_attention": prefix_attention,
        }
        super().__init__(folder, resolve_pausing(folder, InferencePausing(**asked)), int(batch_size))


def run_harness(arguments: list[str]) -> None:
    """Run the harness's command with ``arguments``; it may exit by ``SystemExit``, as for ``--help``.

    Raises :class:`UserError` for model arguments that are not known, and for the errors of loading the model.
    """
    sys.argv = ["pause-megatron lm-eval", *arguments]
    cli_evaluate()
