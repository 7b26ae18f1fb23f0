"""Configuration of a private cluster, and the command line of each daemon."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

NODES = ("n1", "n2")
GPUS = 2
"""GPUs that each node claims to have; they do not exist."""
CPUS = 8
"""Processors that each node claims to have, so that Slurm refuses no job on a small machine."""

_CONFIGURATION = """
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
GresTypes=gpu
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdTimeout=5
MinJobAge=3600
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs={cpus} Gres=gpu:{gpus} State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs={cpus} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def write_configuration(folder: Path, ports: Sequence[int]) -> None:
    """Write the files that the daemons of a cluster in ``folder`` read; ``ports``: of the controller and the nodes."""
    (folder / "state").mkdir()
    for node in NODES:
        (folder / "spool" / node).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    settings = {"folder": folder, "ports": ports, "host": socket.gethostname(), "cpus": CPUS, "gpus": GPUS}
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(**settings), encoding="utf-8")
    for number in range(GPUS):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n", encoding="utf-8")
    # Slurm reads this even if nothing uses cgroups; the default needs their second version.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n", encoding="utf-8")


def daemon_command(name: str, folder: Path) -> list[str]:
    """Return the command for ``munged``, ``slurmctld`` or, by the name of its node, a ``slurmd``, in the foreground."""
    if name == "munged":
        files = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munge.log", "pid-file": "munge.pid"}
        flags = [f"--{flag}={folder / file}" for flag, file in {**files, "seed-file": "munge.seed"}.items()]
        return ["munged", "--foreground", *flags]
    return ["slurmctld", "-D"] if name == "slurmctld" else ["slurmd", "-D", "-N", name]
