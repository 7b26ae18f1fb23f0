"""The error for a package that is not installed: its name, and the command that installs it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from pause_megatron.errors import UserError

_OWN = "pause_megatron"
_EXTRA = re.compile(r"""extra == ['"](\w+)['"]""")


@contextmanager
def packages_needed_by(user: str) -> Iterator[None]:
    """Turn the failed import of a required or optional package into a :class:`UserError` about ``user``.

    ``user`` is a flag or a command, such as ``--executor slurm``. A module of this project, or of a package that this
    project does not list, is a fault and stays a ``ModuleNotFoundError``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if (command := install_command(package)) is None:
            raise
        raise UserError(f"{user}: needs the package {package}, which is not installed; run {command}") from error


def install_command(package: str) -> str | None:
    """Return the ``pip`` command that adds the importable ``package``, or None if this project does not list it."""
    try:
        listed = metadata.requires(_OWN) or []
    except metadata.PackageNotFoundError:  # the source tree without an installation
        return f"pip install {package}" if package != _OWN else None
    for line in listed:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("-", "_")
        if name.lower() == package.lower():
            extra = _EXTRA.search(line)
            return f"pip install '{_OWN}[{extra[1]}]'" if extra else f"pip install {_OWN}"
    return None
