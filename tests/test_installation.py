"""Requirements of setup.py, pins of constraints.txt, the Makefile and the installed packages agree on versions.

The wheel and the source distribution have all files that users need.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
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


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a source distribution of the tracked files, and a wheel made from it, unpacked in ``wheel/``."""
    folder = tmp_path_factory.mktemp("distributions")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout: the wheel is not checked, because it is not known which files belong to it")
    for name in tracked.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / "tree" / name)
    build(folder / "tree", "build_sdist", folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(
            folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )  # from Python 3.11.4 on
    build(next(folder.glob("pause_megatron-*/")), "build_wheel", folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "wheel")
    return folder


def build(tree: Path, kind: str, output: Path) -> None:
    """Build with the backend that pip uses."""
    call = f"from setuptools import build_meta; build_meta.{kind}({str(output)!r})"
    subprocess.run([sys.executable, "-c", call], cwd=tree, capture_output=True, check=True)


def files_below(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_wheel_has_the_package_and_the_files_that_commands_read(distributions: Path) -> None:
    tree, wheel = distributions / "tree", distributions / "wheel" / "pause_megatron"
    shipped = {f"{name}/{file}" for name in ("ds_configs", "slurm") for file in files_below(tree / name)}
    assert files_below(wheel) == files_below(tree / "pause_megatron") | shipped
    assert (wheel / "py.typed").is_file()


def test_source_distribution_has_the_repository(distributions: Path) -> None:
    missing = files_below(distributions / "tree") - files_below(next(distributions.glob("pause_megatron-*/")))
    assert not {name for name in missing if not name.startswith(".")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reproduce", "parity", "--output", "o", "--set", "nope=1"], "unknown key 'nope'"),
        (["grid", "--grid", "smoke", "--models", "a=m", "--data", "d", "--output", "o"], "of --grid smoke"),
        (["finetune", "--model", "m", "--task", "nope", "--output", "o"], "tasks: 3sum, "),
        (["preprocess", "--help"], "usage: pause-megatron preprocess"),
    ],
    ids=["reproductions", "grids", "tasks", "preprocess"],
)
def test_installed_wheel_runs_elsewhere(arguments: list[str], said: str, distributions: Path, tmp_path: Path) -> None:
    """Messages that need a file of the wheel that is not Python; the checkout is not importable there."""
    environment = {**os.environ, "PYTHONPATH": str(distributions / "wheel")}
    program = (
        "import sys, pause_megatron; from pause_megatron.cli.main import main;"
        f" assert pause_megatron.__file__.startswith({str(distributions)!r}); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in done.stdout + done.stderr


def test_installed_wheel_finds_its_deepspeed_files_and_writes_its_scripts(distributions: Path, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from pause_megatron.cli.main import main;"
        " from pause_megatron.config.deepspeed import found_deepspeed_file as found;"
        " assert main(['slurm-scripts', '--output', 'scripts']) == 0; print(found(Path('zero1_bf16')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(distributions / "wheel")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(distributions / "wheel/pause_megatron/ds_configs/zero1_bf16.json")
    assert files_below(tmp_path / "scripts") == files_below(REPOSITORY / "slurm")
    dry_run = ["scripts/pretrain_1b.sh", "--dry-run", "stdpt"]
    shown = subprocess.run(dry_run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "--deepspeed zero1_bf16" in shown.stdout, shown.stderr
    assert f"PYTHON={sys.executable} " in (tmp_path / "scripts" / "env.sh").read_text(encoding="utf-8")
