"""Pause-token training of language models, from raw C4 text to a report on whether pausing helped.

For your own code, this module offers pause insertion, masks, a data collator and generation for any causal model of
transformers. Importing it imports no library; the first use of a name does. README.md lists the packages and a reading
order.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pause_megatron.light_imports import lighten_imports

if TYPE_CHECKING:
    from pause_megatron.api import PauseDataCollator, add_pause, generate, insert_pauses
    from pause_megatron.downstream.batching import prefix_lm_mask
    from pause_megatron.downstream.model_folder import load_model_folder
    from pause_megatron.pauses.loss_mask import loss_mask

__version__ = "0.1.0"
__all__ = [
    "PauseDataCollator",
    "add_pause",
    "generate",
    "insert_pauses",
    "load_model_folder",
    "loss_mask",
    "prefix_lm_mask",
]
_ELSEWHERE = {
    "load_model_folder": "pause_megatron.downstream.model_folder",
    "loss_mask": "pause_megatron.pauses.loss_mask",
    "prefix_lm_mask": "pause_megatron.downstream.batching",
}
"""Names that are not in ``pause_megatron.api``."""

lighten_imports()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "pause_megatron.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
