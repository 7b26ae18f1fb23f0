"""Task definitions: the file in the format of lm-evaluation-harness that a name or a path of ``--task`` means.

The search order is: a path, the folder of ``--include-path``, the definitions of this project, lm-evaluation-harness.
Definitions are read here without the functions that they name, so that nothing heavy is imported.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml

from pause_megatron.config.serialize import YAML_ERRORS
from pause_megatron.errors import UserError, one_line
from pause_megatron.optional_packages import install_command

DefinitionSource = Literal["file", "include-path", "shipped", "harness"]
"""Where a definition was found."""

SHIPPED_DEFINITIONS = Path(__file__).parents[1] / "downstream" / "tasks"
SUFFIXES = (".yaml", ".yml")
HARNESS_PREFIX = "harness:"
"""Prefix of a name that skips the definitions of this project, for example ``harness:gsm8k``."""
_LISTED = 20
"""Members of a group that an error lists."""
_IGNORED_FOLDERS = ("__pycache__", ".ipynb_checkpoints")  # as the harness does
_NAMED = re.compile(rb"""^["']?(task|group)["']?[ \t]*:[ \t]*["']?([^\s"'#\[{|>&][^\n"'#]*)""", re.MULTILINE)
"""The name of a definition or a group, at the start of a line."""
_TAGS = re.compile(rb"""^["']?tag["']?[ \t]*:((?:[ \t]*[^\n]*)(?:\n[ \t]*-[^\n]*)*)""", re.MULTILINE)


_INCLUDES = re.compile(rb"""^["']?include["']?[ \t]*:[ \t]*["']?([\w./-]+)""", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """The definition of one task."""

    name: str
    """Name in results: the key ``task``, after ``harness:`` if this project has another task of that name."""
    path: Path
    source: DefinitionSource
    values: dict[str, Any]
    """Keys of the file and of those that it includes; functions are texts."""
    files: tuple[Path, ...]
    """The file, those that it includes, and the Python files next to them that they name."""

    @property
    def sha256(self) -> str:
        """Hash of the keys, and of the Python files next to the definition that it names; not of its place."""
        python = [file.read_bytes() for file in self.files if file.suffix == ".py"]
        keys = json.dumps(self.values, sort_keys=True, default=str).encode()
        return hashlib.sha256(b"\0".join([keys, *python])).hexdigest()

    @property
    def file_name(self) -> str:
        """The name as a part of file names."""
        return re.sub(r"[^\w.+-]", "-", self.name).lstrip(".")


def task_names() -> list[str]:
    """Return the names of this project's tasks. Files that start with an underscore are only included by others."""
    return sorted(path.stem for path in SHIPPED_DEFINITIONS.glob("[!_]*.yaml"))


def is_file(task: str) -> bool:
    """Whether the value of ``--task`` is a path."""
    return task.endswith(SUFFIXES)


def require_task(task: str, include_path: Path | None = None) -> None:
    """Raise :class:`UserError` if ``task`` is neither a path nor a known name.

    A path, and names with a folder of further definitions, are checked when they are used, by :func:`find_definition`.
    """
    if not is_file(task) and include_path is None and task not in task_names():
        find_definition(task, None)


def find_definition(task: str, include_path: Path | None) -> Definition:
    """Return the definition of ``task``, the value of ``--task``; ``include_path`` has further ones.

    Raises :class:`UserError` if there is none, if it is not YAML, and if it is a group, a tag or a Python class.
    """
    path, source = _find(task, include_path)
    flag = f"--task {task}"
    values, files = _read(path, flag)
    if "class" in values:
        raise UserError(
            f"{flag}: {path} names a Python class, not prompts; evaluate it with 'pause-megatron lm-eval', or write a"
            " definition"
        )
    name = values.get("task")
    if "group" in values or isinstance(name, list):
        members = name if isinstance(name, list) else []
        raise UserError(f"{flag}: is a group; give one of its members: {_listed(map(_member, members))}")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{flag}: {path} has no name; add a line such as 'task: my_task'")
    if source == "harness" and name in task_names():
        name = HARNESS_PREFIX + name
    return Definition(name=name, path=path, source=source, values=values, files=files)


def _find(task: str, include_path: Path | None) -> tuple[Path, DefinitionSource]:
    if is_file(task):
        path = Path(task).expanduser()
        if not path.is_file():
            raise UserError(f"--task {task}: no such file; correct the path, or give the name of a task")
        return path, "file"
    if include_path is not None:
        if not include_path.is_dir():
            raise UserError(f"--include-path {include_path}: no such folder; correct the path")
        if found := _index(include_path).get(task) or _named_by_an_include(include_path, task):
            return found, "include-path"
    if task in task_names():
        return SHIPPED_DEFINITIONS / f"{task}.yaml", "shipped"
    harness = _harness_folder()
    if found := _harness_index().get(task.removeprefix(HARNESS_PREFIX)):
        return found, "harness"
    raise _unknown(task, [folder for folder in (include_path, harness) if folder])


def _unknown(task: str, folders: list[Path]) -> UserError:
    name = task.removeprefix(HARNESS_PREFIX)
    if tagged := [member for folder in folders for member in _tagged(folder, name)]:
        return UserError(f"--task {task}: is a tag; give one of its tasks: {_listed(tagged)}")
    known = [name for folder in folders for name in _index_of(folder)]
    close = get_close_matches(name, [*known, *task_names()], n=1, cutoff=0.8)
    hint = f"did you mean '{close[0]}'? " if close else ""
    others = "a task of lm-evaluation-harness, or a definition as NAME.yaml"
    if _harness_folder() is None:
        others += f"; tasks of lm-evaluation-harness need {install_command('lm_eval') or 'pip install lm-eval'}"
    return UserError(f"--task {task}: unknown; {hint}tasks: {', '.join(task_names())}; or {others}")


def _harness_folder() -> Path | None:
    """Return the folder of the harness's definitions without importing the harness, which takes seconds."""
    package = find_spec("lm_eval")
    locations = package.submodule_search_locations if package else None
    return Path(next(iter(locations))) / "tasks" if locations else None


def _index_of(folder: Path) -> dict[str, Path]:
    return _harness_index() if folder == _harness_folder() else _index(folder)


@cache
def _harness_index() -> dict[str, Path]:
    folder = _harness_folder()
    return {} if folder is None else _index(folder)


def _definition_files(folder: Path) -> list[Path]:
    """Return the YAML files of ``folder`` and below, in the harness's order."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _IGNORED_FOLDERS]
        found += [Path(root, name) for name in files if name.endswith(".yaml")]
    return sorted(found, key=Path.as_posix)


def _index(folder: Path) -> dict[str, Path]:
    """Return name to file of the tasks and groups in ``folder`` and below; of several files, the first.

    The names are searched as text: reading 14,000 files as YAML would take a quarter of a minute.
    """
    found: dict[str, Path] = {}
    for path in _definition_files(folder):
        names = dict(_NAMED.findall(path.read_bytes()))
        if name := names.get(b"group") or names.get(b"task"):
            found.setdefault(name.decode(errors="replace").strip(), path)
    return found


def _named_by_an_include(folder: Path, name: str) -> Path | None:
    """Return the file of the task ``name`` whose name is in a file that it includes, or spelled in another way."""
    for path in _definition_files(folder):
        try:
            values, _ = _read(path, "")
        except UserError:  # the harness skips it too
            continue
        if name in (values.get("task"), values.get("group")):
            return path
    return None


def _tagged(folder: Path, tag: str) -> list[str]:
    """Return the tasks in ``folder`` and below with ``tag``, in their own file or in the one that it includes."""
    word = re.compile(rb"(?<![\w-])" + re.escape(tag.encode()) + rb"(?![\w-])")

    @cache
    def has_tag(path: Path) -> bool:
        content = path.read_bytes() if path.is_file() else b""
        if listed := _TAGS.findall(content):
            return any(map(word.search, listed))
        return any(has_tag(path.parent / name.decode(errors="replace")) for name in _INCLUDES.findall(content))

    return [name for name, path in _index_of(folder).items() if has_tag(path)]


def _member(member: Any) -> str:
    return str(member.get("task") or member.get("group")) if isinstance(member, dict) else str(member)


def _listed(names: Any) -> str:
    names = list(names)
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _read(path: Path, flag: str, seen: tuple[Path, ...] = ()) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return the keys of ``path`` and of the files that it includes, where the including file wins; and all files."""
    python: list[Path] = []
    try:
        path = path.resolve()
        if path in seen:
            raise ValueError("includes itself")
        values = yaml.load(path.read_bytes().decode("utf-8-sig"), _loader(path.parent, python))
    except OSError as error:
        raise UserError(f"{flag}: {path}: {error.strerror or error}; correct the path") from error
    except YAML_ERRORS as error:
        raise UserError(f"{flag}: {path}: not YAML ({one_line(error)}); correct the file") from error
    if not isinstance(values, dict):
        raise UserError(f"{flag}: {path} holds a {type(values).__name__}; write lines such as 'task: my_task'")
    files = [path]
    merged: dict[str, Any] = {}
    includes = values.pop("include", [])
    for include in includes if isinstance(includes, list) else [includes]:
        found, others = _read(path.parent / str(include), flag, (*seen, path))
        merged |= found
        files += others
    return {**merged, **values}, tuple(dict.fromkeys([*files, *python]))


def _loader(folder: Path, python: list[Path]) -> type[yaml.SafeLoader]:
    """Return a YAML loader that reads functions as text, and adds their Python files in ``folder`` to ``python``."""

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
        name = str(loader.construct_scalar(node))
        file = folder / f"{name.rpartition('.')[0].replace('.', '/')}.py"
        if file.is_file():
            python.append(file)
        return f"!function {name}"

    Loader.add_constructor("!function", function)
    return Loader
