"""One check of a machine, and the place where it runs."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

Figures = dict[str, Any]
"""Measured figures by name, JSON-ready. The key "found" holds the result in words."""


class Skipped(Exception):  # noqa: N818 - not an error
    """The check does not apply to this machine; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place where checks run."""

    folder: Path
    """Folder for files that checks leave for later ones."""
    gpus: int
    """GPUs to use; 0 on a CPU."""
    preset: str
    """Model of the speed measurement."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device of the ranks."""
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class Check:
    """One check. Its function is named instead of imported, so that each process imports only what it needs."""

    name: str
    about: str
    """Noun phrase for the list of checks."""
    function: str
    """For example ``step:fp32``, the function ``fp32`` of ``step_checks.py``; it takes the :class:`Place`."""
    ranks: int = 1
    """Processes that run the function together; 0: one for each GPU, or two on a CPU."""
    device: Literal["cpu", "cuda", "any"] = "any"
    """Device of the ranks: "cuda" skips the check on a machine without GPUs, and "cpu" does not use GPUs."""
    needs: tuple[str, ...] = ()
    """Names of checks that must have passed."""
    timeout: float = 120.0
    """Seconds after which the check has failed."""

    def device_at(self, place: Place) -> Literal["cpu", "cuda"]:
        """Return the device of the ranks at ``place``."""
        return "cpu" if self.device == "cpu" else place.device

    def ranks_at(self, place: Place) -> int:
        """Return the number of ranks at ``place``."""
        return self.ranks or (place.gpus if self.device_at(place) == "cuda" else 2)

    def why_not(self, place: Place) -> str:
        """Return why the check does not apply to ``place``; empty if it does."""
        if self.device == "cuda" and not place.gpus:
            return "no GPU is used"
        if self.device_at(place) == "cuda" and place.gpus < self.ranks:
            return f"needs {self.ranks} GPUs, but {place.gpus} are used"
        return ""

    def run(self, place: Place) -> Figures:
        """Run the function in this process."""
        module, _, function = self.function.partition(":")
        path = module if "." in module else f"{__package__}.{module}_checks"
        figures: Figures = resolve_name(f"{path}:{function}")(place)
        return figures


def find_check(checks: tuple[Check, ...], name: str) -> Check:
    """Return the check ``name`` of ``checks``."""
    return next(check for check in checks if check.name == name)
