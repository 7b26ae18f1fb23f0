"""Tasks of a step on two nodes find each other under node names that are no host names."""

from __future__ import annotations

import sys
from pathlib import Path

from pause_megatron.parallel.slurm_step import first_node
from tests.parallel.test_launching import PROGRAM, said
from tests.parallel.test_slurm_step import LISTS
from tests.slurm.cluster import Cluster

MEET = """
from pause_megatron.parallel.launcher import export_launch
import torch, torch.distributed as dist
export_launch(launch)
dist.init_process_group("gloo")
total = torch.tensor([launch.rank])
dist.all_reduce(total)
assert total.item() == 0 + 1 + 2 + 3
"""


def test_tasks_of_two_nodes_meet(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(PROGRAM + MEET)
    done = cluster.run("srun", "--nodes=2", "--ntasks-per-node=2", sys.executable, tmp_path / "say.py")
    assert done.returncode == 0, done.stderr
    found = said(done.stdout)
    assert [launch["rank"] for launch in found] == [0, 1, 2, 3]
    assert [launch["local_rank"] for launch in found] == [0, 1, 0, 1]
    assert {launch["launcher"] for launch in found} == {"slurm"}
    assert {launch["local_world_size"] for launch in found} == {2}


def test_node_lists_are_read_as_slurm_reads_them(cluster: Cluster) -> None:
    for written in LISTS:
        assert cluster.ask("scontrol", "show", "hostnames", written).split()[0] == first_node(written)
