"""``pause-megatron grid --dry-run``: the jobs of each stage, missing inputs, and the cost of each pretraining."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pause_megatron.config.experiments import Grid
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.study import Pretraining
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.costs.plan import ScalePlan
from pause_megatron.costs.plan_text import amount
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid_file import check_folders
from pause_megatron.experiments.job import STAGES, Job, State
from pause_megatron.experiments.study_budget import seq_length_of
from pause_megatron.experiments.study_checks import check_text
from pause_megatron.training.dry_run import Plan, cost_lines, make_plan


def print_grid_plan(grid: Grid, jobs: Sequence[Job], states: Mapping[str, State], output: Path, source: str) -> None:
    """Print the plan of ``grid`` with its ``jobs``, whose settings were checked when they were made.

    Raises :class:`UserError`, after the plan, if a pretraining is impossible on its number of processes.
    """
    print(f"{output}: dry run, nothing is started\n")
    print("\n".join(_stage_lines(jobs, states)))
    if missing := list(_missing_inputs(grid, source)):
        print("\nmissing on this machine, and not checked:")
        print("\n".join(f"  {line}" for line in missing))
    if grid.pretrain:
        _print_pretrainings(grid.pretrain, jobs)


def _stage_lines(jobs: Sequence[Job], states: Mapping[str, State]) -> Iterator[str]:
    yield f"{'stage':<12}{'jobs':>8}{'done':>8}{'to do':>8}"
    for stage in STAGES.values():
        of_stage = [states[job.name] for job in jobs if job.stage == stage]
        if of_stage:
            done = of_stage.count("done")
            yield f"{stage:<12}{len(of_stage):>8,}{done:>8,}{len(of_stage) - done:>8,}"


def _missing_inputs(grid: Grid, source: str) -> Iterator[str]:
    """Yield the message for each folder or file that the grid reads and that does not exist."""
    for name in grid.models:
        yield from _message(replace(grid, models={name: grid.models[name]}, tasks={}), source)
    for name in grid.tasks:
        yield from _message(replace(grid, models={}, tasks={name: grid.tasks[name]}), source)
    for key in ("text", "validation_text") if grid.pretrain else ():
        for text in getattr(grid.pretrain, key):
            try:
                check_text((text,), f"pretrain: {key}")
            except UserError as error:
                yield str(error)


def _message(grid: Grid, source: str) -> Iterator[str]:
    try:
        check_folders(grid, source)
    except UserError as error:
        yield str(error).removeprefix(f"{source}: ")


def _print_pretrainings(study: Pretraining, jobs: Sequence[Job]) -> None:
    """Print the plan of each different pretraining, and what all of them need."""
    plans: dict[str, list[str]] = {}
    hours = days = 0.0
    refused: UserError | None = None
    for job in (job for job in jobs if job.stage == "pretrain"):
        plan = _plan_of(job, study)
        plans.setdefault("\n".join(cost_lines(plan)), []).append(job.model)
        [scale] = plan.scales.values()
        if isinstance(scale, ScalePlan) and plan.hardware.peak_tflops:
            seconds = scale.seconds(peak_tflops=plan.hardware.peak_tflops, mfu=plan.config.assumed_mfu)
            days += seconds / 86400
            hours += seconds / 3600 * study.processes
        elif isinstance(scale, UserError):
            refused = scale
    for text, models in plans.items():
        print(f"\npretraining of {', '.join(models)}, on {study.processes} processes each\n{text}")
    if hours:
        number = sum(map(len, plans.values()))
        print(f"\nall {number} pretrainings: {amount(hours)} GPU-hours, {amount(days)} days one after the other;")
        print("finetunings and evaluations come on top")
    if refused:
        raise refused


def _plan_of(job: Job, study: Pretraining) -> Plan:
    [config] = job.outputs
    assert isinstance(config, PretrainConfig)
    vocab_size = study.make_tokenizer.get("vocab_size", TokenizerConfig.vocab_size)
    name = config.model_name or job.model
    length = seq_length_of(study.models[name], config)
    training = replace(config.training, seq_length=length)
    planned = replace(config, vocab_size=vocab_size, training=training, num_gpus=(study.processes,))
    return make_plan(planned, num_processes=study.processes)
