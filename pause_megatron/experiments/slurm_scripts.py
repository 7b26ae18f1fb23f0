"""Writes the batch scripts of ``slurm/`` to a folder of the user, for an installation without a checkout."""

import re
import shlex
import sys

from pause_megatron import log
from pause_megatron.atomic import new_folder
from pause_megatron.config.slurm_scripts import SlurmScriptsConfig
from pause_megatron.shipped_files import shipped_folder

SETTINGS = "env.sh"
"""The file that users edit."""
_SOURCED = (SETTINGS, "lib.sh")
_PYTHON = re.compile(r"^PYTHON=\S+", re.MULTILINE)


def write_slurm_scripts(config: SlurmScriptsConfig) -> None:
    """Write the scripts to ``config.output``, with this Python in ``env.sh``.

    Raises :class:`~pause_megatron.errors.UserError` if the folder exists.
    """
    with new_folder(config.output) as folder:
        for script in sorted(shipped_folder("slurm").glob("*.sh")):
            text = script.read_text(encoding="utf-8")
            if script.name == SETTINGS:
                text = _PYTHON.sub(lambda _: f"PYTHON={shlex.quote(sys.executable)}", text, count=1)
            copy = folder / script.name
            copy.write_text(text, encoding="utf-8")
            copy.chmod(0o644 if script.name in _SOURCED else 0o755)
    log.info(f"{config.output}: edit {SETTINGS}; '{config.output}/run_paper.sh --dry-run 130m' shows what it submits")
