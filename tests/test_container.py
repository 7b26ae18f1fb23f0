"""The container recipes run one script, and that script installs on a bare Debian."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documentation import REPOSITORY

CONTAINER = REPOSITORY / "container"
SCRIPT = CONTAINER / "install.sh"
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
"""Release of Debian to its Python."""


@pytest.mark.parametrize("recipe", ["Dockerfile", "pause_megatron.def"])
def test_recipe_runs_the_script_and_puts_the_commands_on_the_path(recipe: str) -> None:
    text = (CONTAINER / recipe).read_text(encoding="utf-8")
    assert re.search(r"^(RUN .*|    )/opt/pause_megatron/container/install\.sh$", text, re.MULTILINE)
    assert "PATH=/opt/pause_megatron/.venv/bin:$PATH" in text
    assert re.search(r"debian:13-slim$", text, re.MULTILINE)
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_script_passes_shellcheck() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def in_debian(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in the Debian in ``root``, with mounts that end with it and a new user's environment."""
    mounts = f"mount --bind /proc '{root}/proc' && mount --bind /dev '{root}/dev'"
    settings = {name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ}
    clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **settings}
    inside = ["unshare", "--mount", "bash", "-c", f"{mounts} && exec chroot '{root}' bash -c \"$0\"", command]
    return subprocess.run(inside, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="requires root and debootstrap")
@pytest.mark.parametrize("suite", SUITES)
def test_script_installs_on_a_bare_debian(suite: str, tmp_path: Path) -> None:
    root, checkout = tmp_path / suite, tmp_path / suite / "opt" / "pause_megatron"
    # With certificates from the start, so that the script does not replace those of this machine, copied below.
    options = ["--variant=minbase", "--include=ca-certificates"]
    subprocess.run(["debootstrap", *options, suite, str(root)], check=True, capture_output=True)
    for file in (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt")):
        target = root / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(checkout)], check=True)
    done = in_debian(root, "/opt/pause_megatron/container/install.sh")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^pause-megatron \d", done.stdout, re.MULTILINE)
    path = "PATH=/opt/pause_megatron/.venv/bin:$PATH"
    commands = ("cd /tmp", path, "pause-megatron generate-task parity --output task", "python --version")
    done = in_debian(root, " && ".join([*commands, "python -c 'import mpi4py.MPI, triton'"]))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Python {SUITES[suite]}" in done.stdout
    assert (root / "tmp" / "task" / "train.jsonl").is_file()
