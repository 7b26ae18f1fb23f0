"""``pause-megatron pretrain``: checks the configuration, starts the process groups, and trains."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

from pause_megatron import log
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping, to_plain
from pause_megatron.errors import EXIT_DONE
from pause_megatron.light_imports import without_collection
from pause_megatron.parallel.launcher import Launch, detect_launch
from pause_megatron.parallel.local_launcher import run_local_processes
from pause_megatron.parallel.slurm_step import describe_job

if TYPE_CHECKING:
    from pause_megatron.training.inputs import PretrainInputs


def pretrain(config: PretrainConfig) -> None:
    """Train until ``train_iters``, from the newest checkpoint in ``config.output`` or from the start; or print a plan.

    Raises :class:`UserError` for a mistake in paths, tokenizer, datasets, layout or DeepSpeed file before any process
    group exists, and :class:`StoppedEarly` when a stop was requested and the run has saved.
    """
    launch = detect_launch()
    starts_processes = config.processes > 1 and launch.world_size == 1
    world_size = config.processes if starts_processes else launch.world_size
    if config.dry_run:
        from pause_megatron.training.dry_run import print_plan

        print_plan(config, num_processes=world_size)
        return
    with without_collection():
        from pause_megatron.training.inputs import check_inputs  # imports Megatron-core, which a plan does not need

    inputs = check_inputs(config, world_size=world_size)
    if starts_processes:
        _run_on_this_machine(config)
    else:
        _run(config, launch, inputs)


def _run_on_this_machine(config: PretrainConfig) -> None:
    """Run the same command on ``config.processes`` ranks, and exit with their exit code if they fail."""
    flags = flags_of_mapping(to_plain(config), PretrainConfig, source="pretrain")
    code = run_local_processes(["pretrain", *flags, *log.flags()], config.processes, device_choice=config.device)
    if code != EXIT_DONE:
        raise SystemExit(code)


def _run(config: PretrainConfig, launch: Launch, inputs: PretrainInputs) -> None:
    from pause_megatron.parallel.process_device import choose_device

    choose_device(config.device, launch, tensor_parallel=inputs.layout.tp > 1)  # before DeepSpeed is imported
    from pause_megatron.parallel.groups import destroy_process_groups

    try:
        train_in_groups(config, launch, inputs)
    finally:
        destroy_process_groups()


def train_in_groups(config: PretrainConfig, launch: Launch, inputs: PretrainInputs) -> None:
    """Form the process groups of ``inputs`` and train; PyTorch's default group may exist. Does not destroy the groups.

    Raises the errors of :func:`pretrain`.
    """
    with without_collection():
        from pause_megatron.data.verified_files import verify_files
        from pause_megatron.parallel.groups import initialize_process_groups
        from pause_megatron.parallel.heartbeat import Heartbeat
        from pause_megatron.training.run import PretrainRun
        from pause_megatron.training.run_devices import describe_all_devices, describe_own_device, device_line
        from pause_megatron.training.run_folder import owned_run_folder
        from pause_megatron.training.stop_requests import StopRequests

    own_device = describe_own_device(config, inputs)
    log.info("; ".join(filter(None, [str(launch), device_line(own_device), describe_job(os.environ)])))
    initialize_process_groups(
        launch, inputs.layout, seed=config.training.seed, timeout=timedelta(minutes=config.faults.collective_timeout)
    )
    with (
        StopRequests(config.faults.exit_duration) as stop,
        Heartbeat(launch, config.faults) as heartbeat,
        owned_run_folder(config.output),
    ):
        folders = [*inputs.training_data, *inputs.validation_data]
        verify_files(folders, tokens=config.verify_data, is_stopping=lambda: bool(stop.request))
        run = PretrainRun(config, launch, inputs, stop, describe_all_devices(own_device))
        with closing(run.metrics), closing(run.loader):
            run.resume()
            heartbeat.shorten_timeout()
            run.train()
