"""Requirements of setup.py, pins of constraints.txt, the Makefile and the installed packages agree on versions."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from importlib import metadata
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.documentation import REPOSITORY

PYTHONS = ("3.11", "3.12", "3.13")
CHOSEN_BY_PYTORCH = {"triton"}
"""PyTorch's CUDA builds require one version of it; CPU builds only need it to be importable."""


@pytest.fixture(scope="module")
def setup() -> dict[str, Any]:
    """Return what setup.py gives to setuptools."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **keywords: found.update(keywords))
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return found


def requirements(setup: dict[str, Any], python: str) -> list[Requirement]:
    lines = [*setup["install_requires"], *(line for lines in setup["extras_require"].values() for line in lines)]
    return [each for each in map(Requirement, lines) if applies(each, python)]


def pins(python: str) -> dict[str, str]:
    """Return name to version of the lines of constraints.txt that apply on ``python``."""
    found = {}
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            pin = Requirement(line.partition("  #")[0])
            if applies(pin, python):
                name = canonicalize_name(pin.name)
                assert name not in found, f"two pins of {name} on Python {python}"
                found[name] = str(pin.specifier).removeprefix("==")
    return found


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_satisfy_the_requirements(setup: dict[str, Any], python: str) -> None:
    pinned = pins(python)
    for requirement in requirements(setup, python):
        if requirement.name not in CHOSEN_BY_PYTORCH:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_installed_packages_satisfy_the_requirements(setup: dict[str, Any]) -> None:
    for requirement in map(Requirement, setup["install_requires"]):
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(metadata.version(requirement.name)), requirement


def test_makefile_accepts_the_supported_pythons(setup: dict[str, Any]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    first, last = re.search(r"\(3, (\d+)\) <= sys.version_info < \(3, (\d+)\)", makefile).groups()  # type: ignore[union-attr]
    assert SpecifierSet(f">=3.{first},<3.{last}") == SpecifierSet(setup["python_requires"])
    assert [f"3.{minor}" for minor in range(int(first), int(last))] == list(PYTHONS)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ([], ".venv"),
        (["PYTHON=/usr/bin/python3"], ".venv"),
        (["PYTHON=python3.13"], ".venv-python3.13"),
        (["PINS=torch==2.11.0"], ".venv-torch-2.11.0"),
        (["PYTHON=/opt/python3.13", "PINS=torch==2.11.0 numpy==2.4.6"], ".venv-python3.13-torch-2.11.0-numpy-2.4.6"),
    ],
)
def test_each_choice_of_versions_has_its_own_environment(variables: list[str], folder: str) -> None:
    command = ["make", "--dry-run", "--always-make", "install", *variables]
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "PINS", "PYTHON")
    }
    commands = subprocess.run(command, cwd=REPOSITORY, env=own, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"(\.venv\S*?)/", commands)) == {folder}
