"""Finds the folders of the repository that an installed package also has: ``ds_configs`` and ``slurm``.

In a checkout they are next to the package; in an installed wheel they are inside it.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped_folder(name: str) -> Path:
    """Return the folder ``ds_configs`` or ``slurm`` that belongs to this version."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def shipped_deepspeed_file(path: Path) -> Path | None:
    """Return the shipped file that ``path`` names, such as ``zero1_bf16`` or ``ds_configs/zero1_bf16.json``, or None.

    A folder ``ds_configs`` and the suffix ``.json`` may be left out.
    """
    if path.parent not in (Path(), Path("ds_configs")):
        return None
    file = shipped_folder("ds_configs") / f"{path.name.removesuffix('.json')}.json"
    return file if file.is_file() else None


def shipped_deepspeed_names() -> list[str]:
    """Return the names of the shipped DeepSpeed files, such as ``zero1_bf16``."""
    return sorted(file.stem for file in shipped_folder("ds_configs").glob("*.json"))
