"""Which tasks there are: a name for every definition file, known without the libraries that read them."""

from __future__ import annotations

from pathlib import Path

DEFINITIONS = Path(__file__).parent / "tasks"


def task_names() -> list[str]:
    """The names ``--task`` takes. A file whose name begins with an underscore is only there to be included."""
    return sorted(path.stem for path in DEFINITIONS.glob("[!_]*.yaml"))
