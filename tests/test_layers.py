"""Imports go down the list of layers, modules that must start at once import nothing heavy, and files are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pause_megatron

PACKAGE = Path(pause_megatron.__file__).parent
LAYERS = [
    ["__main__", "__init__"],
    ["cli", "api"],
    ["doctor"],
    ["experiments", "report"],
    ["training", "downstream"],
    ["conversion"],
    ["checkpoint"],
    ["engine"],
    ["model", "data"],
    ["preprocess", "parallel"],
    ["pauses", "tokenizer"],
    ["corpus"],
    ["costs"],
    ["records"],
    ["config"],
    [
        *("errors", "log", "intervals", "atomic", "locks", "memory_limit", "process_memory", "versions", "children"),
        *("flushing", "launcher_variables", "light_imports", "optional_packages", "remote_files", "shipped_files"),
        "compiled_loops",
    ],
]
"""From the top down. Packages of one layer do not import each other, except in the last layer."""
HEAVY = ("torch", "megatron", "deepspeed", "transformers", "lm_eval", "datasets", "matplotlib", "numpy")


def layer_of(module: str) -> int:
    """Index of the layer of the top-level name ``module``."""
    return next(index for index, names in enumerate(LAYERS) if module in names)


def imported_names(path: Path) -> set[str]:
    """Names of this package's top-level modules that ``path`` imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("pause_megatron.")}
    return {name for name in found if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    base = len(LAYERS) - 1
    for imported in imported_names(path):
        same_package = imported == own
        both_base = layer_of(own) == layer_of(imported) == base
        assert same_package or both_base or layer_of(imported) > layer_of(own), f"{path} imports {imported}"


def test_every_module_has_a_docstring() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_functions_and_files_are_short() -> None:
    """At most 60 lines a function. A file over 300 lines gives its reason in its docstring, after "Long because"."""
    for path in [*SOURCES, *(PACKAGE.parent / "benchmarks").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if text.count("\n") > 300:
            assert "Long because" in (ast.get_docstring(tree) or ""), path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_gpt_model_is_used_in_one_file() -> None:
    """Megatron-core has deprecated it; CONTRIBUTING.md describes the way to its successor."""
    users = {path.relative_to(PACKAGE) for path in SOURCES if "GPTModel" in path.read_text(encoding="utf-8")}
    assert users == {Path("model/gpt.py")}


def test_megatron_and_hugging_face_halves_are_separate() -> None:
    for path in (PACKAGE / "downstream").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import megatron" not in text, path
        assert "from megatron" not in text, path
        assert "deepspeed" not in imported_modules(path), path
    for path in (PACKAGE / "training").rglob("*.py"):
        assert "transformers" not in imported_modules(path), path


def imported_modules(path: Path) -> set[str]:
    """Top-level names of everything ``path`` imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_configurations_and_records_import_nothing_heavy() -> None:
    for path in [*(PACKAGE / "config").rglob("*.py"), *(PACKAGE / "records").rglob("*.py")]:
        assert not imported_modules(path) & set(HEAVY), path


DRY_RUN = [*("pretrain", "--dry-run", "--data", "d", "--tokenizer", "t", "--output", "o", "--train-iters", "1")]
DRY_RUN += ["--deepspeed", "zero1_bf16"]


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [(["--help"], HEAVY), (["pretrain", "--help"], HEAVY), (DRY_RUN, ("megatron", "deepspeed", "transformers"))],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_must_start_at_once_imports_nothing_heavy(arguments: list[str], heavy: tuple[str, ...]) -> None:
    program = (
        "import contextlib, sys; from pause_megatron.cli.main import main\n"
        f"with contextlib.suppress(SystemExit): main({arguments})\n"
        f"heavy = [name for name in {heavy} if name in sys.modules]; sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout or "parameters" in done.stdout
