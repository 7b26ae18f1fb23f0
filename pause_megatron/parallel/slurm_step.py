"""Reads the rendezvous of a Slurm step (``srun``) from the environment of its tasks.

Node lists are parsed here, because containers have no ``scontrol``.
"""

import re
import socket
import subprocess
from collections.abc import Mapping

from pause_megatron.errors import UserError
from pause_megatron.launcher_variables import index_of, number_of, text_of
from pause_megatron.parallel.ports import port_of

_STEPS_PER_JOB = 10
_TASKS_PER_NODE = "SLURM_STEP_TASKS_PER_NODE"
_TASKS_OF_NODES = re.compile(r"([1-9][0-9]{0,5})(?:\(x([1-9][0-9]{0,5})\))?")


def is_launcher(environment: Mapping[str, str]) -> bool:
    """Return whether ``srun`` started this process directly, and not through another launcher (MPICH's ``mpiexec``)."""
    tasks = text_of(environment, "SLURM_STEP_NUM_TASKS")  # a batch script has SLURM_PROCID too, but no tasks
    return bool(tasks) and (text_of(environment, "PMI_SIZE") or tasks) == tasks


def refuse_heterogeneous(environment: Mapping[str, str]) -> None:
    """Raise :class:`UserError` in a heterogeneous job: each of its components counts its own tasks and nodes."""
    components = number_of(environment, "SLURM_HET_SIZE", 1)
    if components > 1:
        raise UserError(
            f"SLURM_HET_SIZE {components}: heterogeneous Slurm jobs are not supported; submit a job with one component,"
            " or unset SLURM_HET_SIZE if this step runs in one component only"
        )


def step_port(environment: Mapping[str, str]) -> int:
    """Return a rendezvous port: the same in all tasks, different in other jobs and steps on the same nodes."""
    job, step = (number_of(environment, name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return port_of(job * _STEPS_PER_JOB + step)


def tasks_here(environment: Mapping[str, str]) -> int | None:
    """Return the number of the step's tasks on this node; None outside a step."""
    written = text_of(environment, _TASKS_PER_NODE)
    if not written:
        return None
    tasks = tasks_per_node(written)
    return tasks[
        index_of(environment, "SLURM_NODEID", 0, size=len(tasks), size_name=f"the length of {_TASKS_PER_NODE}")
    ]


def tasks_per_node(written: str) -> list[int]:
    """Expand Slurm's short form of the tasks on each node, for example ``2(x3),1`` to ``[2, 2, 2, 1]``.

    Raises :class:`UserError` for another form.
    """
    found = []
    for part in written.split(","):
        match = _TASKS_OF_NODES.fullmatch(part)
        if not match:
            raise UserError(f"{_TASKS_PER_NODE} {written!r}: is not a list such as 2(x3),1; correct it, or unset it")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def first_node(node_list: str) -> str:
    """Return the first name of a Slurm node list, for example ``gpu07`` of ``gpu[07-09,12],login1``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", node_list)
    assert first
    return re.sub(r"\[([^-,\]]+)[^\]]*\]", r"\1", first.group())


def describe_job(environment: Mapping[str, str]) -> str:
    """Return for example ``Slurm job 4711, restart 2``; an empty string outside a Slurm job."""
    if not text_of(environment, "SLURM_JOB_ID"):
        return ""
    restarts = number_of(environment, "SLURM_RESTART_COUNT", 0)
    return f"Slurm job {environment['SLURM_JOB_ID']}" + (f", restart {restarts}" if restarts else "")


def address_of(node: str) -> str:
    """Return a host name or address of ``node``: its name if that resolves, else the address that Slurm uses.

    Slurm does not require node names to be host names, although they nearly always are. Raises :class:`UserError` if
    neither resolves.
    """
    if _resolves(node):
        return node
    try:
        shown = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True, check=False).stdout
    except OSError:
        shown = ""
    address = re.search(r"\bNodeAddr=(\S+)", shown)
    if address and _resolves(address[1]):
        return address[1]
    raise UserError(f"MASTER_ADDR: the node '{node}' of task 0 cannot be resolved; set it to that node's address")


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False
