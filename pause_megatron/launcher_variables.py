"""Variables of launchers (torchrun, Slurm, MPI, Kubernetes): numbers and addresses, with errors that name the variable.

An empty variable counts as not set: batch scripts and container files leave such variables behind.
"""

from collections.abc import Mapping

from pause_megatron.errors import UserError

_LARGEST = 2**32 - 1
"""Slurm numbers interactive steps from the top of 32 bits."""
_LARGEST_PORT = 2**16 - 1


def text_of(environment: Mapping[str, str], name: str) -> str:
    """Return the variable ``name`` without surrounding space; empty if it is not set."""
    return environment.get(name, "").strip()


def number_of(
    environment: Mapping[str, str], name: str, default: int | None = None, *, least: int = 0, most: int = _LARGEST
) -> int:
    """Return the whole number in the variable ``name``, or ``default`` if the variable is not set.

    Raises :class:`UserError` for another value than a number from ``least`` to ``most``, and for a variable that is not
    set and has no default.
    """
    text = text_of(environment, name)
    if not text and default is not None:
        return default
    if not text:
        raise UserError(f"{name}: is not set, but other variables of its launcher are; set it, or unset the others")
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST)) and least <= int(text) <= most):
        raise UserError(f"{name} {text!r}: is not a whole number from {least} to {most}; correct it, or unset it")
    return int(text)


def index_of(
    environment: Mapping[str, str], name: str, default: int | None = None, *, size: int, size_name: str
) -> int:
    """Return the index in the variable ``name`` of one of ``size`` things, which the variable ``size_name`` counts.

    Raises the errors of :func:`number_of`, and :class:`UserError` if there is no such index.
    """
    found = number_of(environment, name, default)
    if found >= size:
        raise UserError(f"{name} {found}: does not exist, since {size_name} is {size}; give 0 to {size - 1}")
    return found


def port_of_rendezvous(environment: Mapping[str, str], default: int) -> int:
    """Return ``MASTER_PORT``, or ``default`` if it is not set. Raises :class:`UserError` if it is not a port."""
    text = text_of(environment, "MASTER_PORT")
    if "://" in text:
        raise UserError(
            f"MASTER_PORT {text!r}: is the address of a Kubernetes service named 'master', not a port; set it to a port"
            " number, or set enableServiceLinks: false in the pod"
        )
    return number_of(environment, "MASTER_PORT", default, least=1, most=_LARGEST_PORT)
