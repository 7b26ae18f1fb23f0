"""docs/command_line.md lists every environment variable that the package reads."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import pause_megatron
from tests.documentation import REPOSITORY, section

SOURCES = sorted(Path(pause_megatron.__file__).parent.rglob("*.py"))
READERS = ("text_of", "number_of", "index_of")
"""Functions whose second argument is the name of a variable."""
INTERNAL = {"PAUSE_MEGATRON_PARENT_PIPE", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID", "CROSS_RANK"}
"""Set by this project for its own children, or by torchrun and Horovod for themselves."""


def variables_read() -> set[str]:
    """Names of variables in calls that read the environment, and in its subscripts."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[ast.expr] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_environment(node.func.value):
                names = node.args[:1]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in READERS:
                names = node.args[1:2]
            elif isinstance(node, ast.Subscript) and _is_environment(node.value):
                names = [node.slice]
            found |= {name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)}
    return found


def _is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) in ("os.environ", "environment", "environ")


def test_every_variable_is_listed() -> None:
    table = section(REPOSITORY / "docs" / "command_line.md", "Environment variables")
    listed = re.findall(r"`([A-Z][A-Z_*]+)`", table)
    read = variables_read()
    assert {"MASTER_PORT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_PROCID"} <= read
    missing = {name for name in read - INTERNAL if not any(fnmatch(name, pattern) for pattern in listed)}
    assert not missing
