"""Process groups of Megatron-core get the device, the timeout and the environment of the run."""

from __future__ import annotations

import os
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from pause_megatron.config.parallel import Layout
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from tests.distributed import run_distributed

LAYOUT = Layout(tp=2, pp=1, vp=1, dp=1, sequence_parallel=False)


def start_with_seven_minutes() -> dict[str, object]:
    """Timeouts of the groups that training uses, and what the process knows of its device."""
    os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    initialize_process_groups(detect_launch(), LAYOUT, seed=1, timeout=timedelta(minutes=7))
    groups = [
        dist.group.WORLD,
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_data_parallel_group(),
        parallel_state.get_model_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
    ]
    backends = [group._get_backend(torch.device("cpu")) for group in groups if group.size() > 1]
    found = {
        "timeouts": {backend.options._timeout for backend in backends},
        "device": str(device()),
        "connections": os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS"),
        "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "listening": [
            connection.laddr.ip
            for connection in psutil.Process().net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ],
    }
    destroy_process_groups()
    return found


def test_groups_get_the_timeout_and_ranks_on_cpus_see_no_gpu() -> None:
    for found in run_distributed(start_with_seven_minutes, 2):
        assert found["timeouts"] == {timedelta(minutes=7)}
        assert (found["device"], found["visible"]) == ("cpu", "")
        assert str(found["interface"]).startswith("lo")
        assert found["connections"] == "1"  # for tensor parallelism on GPUs
        assert set(found["listening"]) == {"127.0.0.1"}, "other machines can connect"
