"""The versions a result was produced with, written beside every result."""

from __future__ import annotations

import platform
from importlib import metadata

import pause_megatron

REPORTED_PACKAGES = (
    "torch",
    "megatron-core",
    "deepspeed",
    "transformers",
    "lm_eval",
    "sentencepiece",
    "tokenizers",
    "gigatoken",
    "numpy",
)


def versions() -> dict[str, str]:
    """Package name to installed version, for Python, this project and what its results depend on."""
    found = {"python": platform.python_version(), "pause_megatron": pause_megatron.__version__}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
