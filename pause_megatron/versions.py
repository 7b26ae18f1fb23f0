"""Versions of the software, recorded with each result."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

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
    """Return package name to installed version of Python, this project and the packages its results depend on."""
    found = {"python": platform.python_version(), "pause_megatron": pause_megatron.__version__}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the sources, with ``-dirty`` if they were changed; None outside a git checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
