"""Tasks of a step meet on two nodes whose names are not host names, and as MPI ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pause_megatron.parallel.slurm_step import first_node
from tests.chain import SEQ_LENGTH, texts, write_dataset, write_text_and_tokenizer
from tests.parallel.test_launching import PROGRAM, launches
from tests.parallel.test_slurm_step import LISTS
from tests.preprocess.conftest import contents
from tests.slurm.cluster import REPOSITORY, Cluster

MEET = """
from pause_megatron.parallel.launcher import export_launch
import torch, torch.distributed as dist
export_launch(launch)
dist.init_process_group("gloo")
total = torch.tensor([launch.rank])
dist.all_reduce(total)
assert total.item() == 0 + 1 + 2 + 3
dist.destroy_process_group()  # a process that ends in a group of gloo's now and then aborts
"""


def test_tasks_of_two_nodes_meet(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(PROGRAM + MEET)
    done = cluster.run("srun", "--nodes=2", "--ntasks-per-node=2", sys.executable, tmp_path / "say.py")
    assert done.returncode == 0, done.stderr
    found = launches(done.stdout)
    assert [launch["rank"] for launch in found] == [0, 1, 2, 3]
    assert [launch["local_rank"] for launch in found] == [0, 1, 0, 1]
    assert {launch["launcher"] for launch in found} == {"slurm"}
    assert {launch["local_world_size"] for launch in found} == {2}


def test_node_lists_are_read_as_slurm_reads_them(cluster: Cluster) -> None:
    for written in LISTS:
        assert cluster.ask("scontrol", "show", "hostnames", written).split()[0] == first_node(written)


def test_ranks_that_srun_starts_preprocess_as_one_process_does(cluster: Cluster, tmp_path: Path) -> None:
    """On one node, because Slurm's PMIx plugin does not support two nodes on one machine."""
    listed = "pmix" in cluster.ask("srun", "--mpi=list")  # which does not show whether Slurm can load it
    if not listed or "can not load PMIx" in cluster.run("srun", "--mpi=pmix", "true").stderr:
        pytest.skip("Slurm has no PMIx here (Debian: libpmix-dev); MPI ranks started by srun were not checked")
    write_text_and_tokenizer(tmp_path)
    alone = write_dataset(tmp_path, "alone")
    flags = ["--input", *texts(tmp_path, "train"), "--tokenizer", tmp_path / "tokenizer", "--seq-length", SEQ_LENGTH]
    tool = REPOSITORY / "tools" / "preprocess_c4.py"
    srun = ("srun", "--mpi=pmix", "--nodes=1", "--ntasks=2", sys.executable)
    done = cluster.run(*srun, tool, *flags, "--output", tmp_path / "ranks")
    assert done.returncode == 0, done.stderr
    assert "; 2 MPI ranks" in done.stderr
    assert contents(tmp_path / "ranks") == contents(alone)
