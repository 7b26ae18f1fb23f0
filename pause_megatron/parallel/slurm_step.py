"""What a task of a Slurm step (``srun``) can tell of the others from its environment; asks Slurm only where it must.

Node lists are read here and not by ``scontrol``, which containers do not have.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from pause_megatron.errors import UserError
from pause_megatron.parallel.ports import port_of

_STEPS_A_JOB = 10


@dataclass(frozen=True, kw_only=True)
class SlurmTask:
    """One task among those of a step."""

    rank: int
    """Index of this task among all."""
    world_size: int
    """Tasks of the step."""
    local_rank: int
    """Index of this task on its node."""
    local_world_size: int
    """Tasks of the step on this node."""
    first_node: str
    """Slurm's name of the node that runs task 0."""
    port: int
    """A port that all tasks can tell, and that no other job or step on the same nodes has."""


def is_launcher(environment: Mapping[str, str]) -> bool:
    """Whether ``srun`` started this process, and not a launcher that ``srun`` started, as MPICH's ``mpiexec`` is."""
    if "SLURM_PROCID" not in environment or "SLURM_STEP_NUM_TASKS" not in environment:
        return False  # a batch script has a SLURM_PROCID too, but is no step with tasks
    return environment.get("PMI_SIZE", environment["SLURM_STEP_NUM_TASKS"]) == environment["SLURM_STEP_NUM_TASKS"]


def read_step(environment: Mapping[str, str]) -> SlurmTask:
    """What ``environment`` says of this task; :func:`is_launcher` has to hold."""
    world_size = int(environment["SLURM_STEP_NUM_TASKS"])
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return SlurmTask(
        rank=int(environment["SLURM_PROCID"]),
        world_size=world_size,
        local_rank=int(environment.get("SLURM_LOCALID", "0")),
        local_world_size=tasks_here(environment) or world_size,
        first_node=first_node(environment.get("SLURM_STEP_NODELIST", "")),
        port=port_of(job * _STEPS_A_JOB + step),
    )


def tasks_here(environment: Mapping[str, str]) -> int | None:
    """The tasks of the step on this node; None where there is no step."""
    if "SLURM_STEP_TASKS_PER_NODE" not in environment:
        return None
    return tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])[int(environment.get("SLURM_NODEID", "0"))]


def tasks_per_node(written: str) -> list[int]:
    """The tasks of each node, from Slurm's short form: ``2(x3),1`` is 2, 2, 2, 1."""
    found = []
    for part in written.split(","):
        count, _, repeated = part.partition("(x")
        found += [int(count)] * int(repeated.rstrip(")") or 1)
    return found


def first_node(node_list: str) -> str:
    """The first name of a Slurm node list: of ``gpu[07-09,12],login1`` it is ``gpu07``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", node_list)
    assert first
    return re.sub(r"\[([^-,\]]+)[^\]]*\]", r"\1", first.group())


def describe_job(environment: Mapping[str, str]) -> str:
    """The Slurm job this process belongs to and how often it was queued again, for a person; empty outside of one."""
    if "SLURM_JOB_ID" not in environment:
        return ""
    restarts = int(environment.get("SLURM_RESTART_COUNT", "0"))
    return f"Slurm job {environment['SLURM_JOB_ID']}" + (f", restart {restarts}" if restarts else "")


def address_of(node: str) -> str:
    """Under what name ``node`` is reached: its own, or else the address by which Slurm itself reaches it.

    Names of nodes are host names nearly everywhere, but Slurm does not ask for it. Raises :class:`UserError` when
    there is no such address.
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
    raise UserError(f"the node '{node}' of task 0 is no host name here; set MASTER_ADDR to the address of its machine")


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False
