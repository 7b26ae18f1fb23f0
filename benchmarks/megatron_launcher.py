"""Starts a tool of a Megatron-LM checkout on a machine without GPUs: ``python megatron_launcher.py CHECKOUT TOOL ...``.

Before the tool's own file runs, unchanged, as the main program,

- the checkout is put first on the module path: the tools put it last, where an installed megatron-core of another
  version would win;
- ``typing.override``, which Python has from 3.12 on, is taken from ``typing_extensions`` on Python 3.11;
- what the tools import is imported, and the processor time until then is written to the file that
  ``IMPORT_SECONDS_FILE`` names. These five seconds vary by more than some of the differences to be measured.

The interpreter needs what the tools import: torch, transformers, sentencepiece, triton (imported by Megatron-core, not
used in tokenizing) and, for the fast tool, gigatoken and awkward.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import time
import typing
import warnings
from pathlib import Path

IMPORT_SECONDS_FILE = "MEGATRON_LAUNCHER_IMPORT_SECONDS_FILE"
_IMPORTED = (
    "megatron.core.datasets.indexed_dataset",
    "megatron.core.tokenizers.text.libraries",
    "megatron.core.tokenizers.utils.build_tokenizer",
    "megatron.training.arguments",
)


def main() -> None:
    """Run ``sys.argv[2]`` of the checkout ``sys.argv[1]`` with the arguments that follow."""
    checkout, tool, *arguments = sys.argv[1:]
    if not hasattr(typing, "override"):
        import typing_extensions

        typing.override = typing_extensions.override  # type: ignore[attr-defined]
    os.environ["NO_VCS_VERSION"] = "1"  # else importing Megatron-core starts git
    warnings.simplefilter("ignore")
    sys.path[0] = checkout
    for name in _IMPORTED:
        importlib.import_module(name)
    Path(os.environ[IMPORT_SECONDS_FILE]).write_text(str(time.process_time()), encoding="utf-8")
    sys.argv = [str(Path(checkout) / tool), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
