"""Comparison of a draw of ``make fuzz-layouts`` with one process.

The processes stay alive, and so do PyTorch's groups: Megatron-core finds those that it had in an earlier run. All runs
go through the code of ``pause-megatron pretrain`` on real datasets, and write real checkpoints.
"""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from megatron.core import parallel_state

from pause_megatron.checkpoint.checkpoint_folders import find_checkpoint
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.records.files import read_record_lines
from pause_megatron.records.pretraining import METRICS_FILE, METRICS_KINDS, TrainRecord, ValidationRecord
from pause_megatron.training.inputs import check_inputs
from pause_megatron.training.pretrain import train_in_groups
from tests.distributed import ProcessPool
from tests.training.layout_draws import Draw, Segment, reference_segment, segment_config, write_datasets

DRAWS_OF_A_POOL = 100
"""Draws after which the processes are renewed: DeepSpeed keeps the memory of every engine."""
REFERENCE = 0
"""Key of the pool of one process that trains the reference, beside the pools by world size."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Largest differences of a run from the reference."""

    loss: float = 0.0
    """Absolute difference of a training or validation loss, nats."""
    norm: float = 0.0
    """Relative difference of a gradient norm."""
    weight: float = 0.0
    """Absolute difference of a final weight; in half precision the root mean square over each parameter."""

    def __str__(self) -> str:
        return f"loss {self.loss:.1e}, norm {self.norm:.1e}, weight {self.weight:.1e}"

    def within(self, limit: Difference) -> bool:
        """Return whether no difference exceeds that of ``limit``; False for NaN."""
        return self.loss <= limit.loss and self.norm <= limit.norm and self.weight <= limit.weight

    def joined(self, other: Difference) -> Difference:
        """Return the larger of each difference."""
        return Difference(
            loss=max(self.loss, other.loss), norm=max(self.norm, other.norm), weight=max(self.weight, other.weight)
        )


LIMITS = {
    "fp32": Difference(loss=1e-5, norm=1e-5, weight=1e-5),
    "bf16": Difference(loss=5e-3, norm=1e-1, weight=1e-3),
    "bf16, gradients in fp32": Difference(loss=5e-3, norm=1e-1, weight=1e-3),
    "fp16": Difference(loss=5e-4, norm=1e-2, weight=1e-3),
}
"""Largest differences accepted, by precision."""


class LayoutMismatchError(AssertionError):
    """A run differs from the reference, or fails."""


class Fuzz:
    """Datasets and process pools for many draws; leave the ``with`` block to end the processes."""

    def __init__(self, folder: Path, *, mistake: Callable[[], None] | None = None) -> None:
        """Write into ``folder``; ``mistake`` is called first in every process of a layout, but not of the reference."""
        self.folder = folder
        self._mistake = mistake
        self.cpu_seconds = 0.0
        """Time of all processes so far, without their start."""
        self._draws = 0
        self._pools: dict[int, ProcessPool] = {}

    def __enter__(self) -> Self:
        if not (self.folder / "data").exists():
            write_datasets(self.folder / "data")
        return self

    def __exit__(self, *_: object) -> None:
        self._close_pools()

    def compare(self, draw: Draw) -> Difference:
        """Train ``draw`` and its reference.

        Raises :class:`UserError` if it is refused, before any process group is formed, and
        :class:`LayoutMismatchError` if a run fails, or if a difference exceeds the limits and, in fp32, twice what
        rounding alone explains.
        """
        runs = self.folder / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        runs.mkdir()
        reference = self._config(draw, reference_segment(draw), runs / "reference")
        configs = [self._config(draw, segment, runs / "layouts") for segment in draw.segments]
        self._draws += 1
        if self._draws % DRAWS_OF_A_POOL == 0:
            self._close_pools()
        try:
            self._train(draw.segments, configs, reference)
        except AssertionError as error:
            self._close_pools()  # some of their processes may hang
            raise LayoutMismatchError(str(error)) from error
        exact = draw.precision == "fp32"
        found = difference(reference.output, configs[-1].output, exact=exact)
        limit = LIMITS[draw.precision]
        if exact and not found.within(limit):
            limit = limit.joined(self._rounding(draw, reference))
        if not found.within(limit):
            raise LayoutMismatchError(f"differs from one process: {found}")
        return found

    def _rounding(self, draw: Draw, reference: PretrainConfig) -> Difference:
        """Return twice the largest difference of the reference from one process with smaller micro-batches.

        Some drawn models amplify rounding errors: they then differ from themselves as soon as sums are in another
        order, without any layout.
        """
        whole, largest = reference_segment(draw), Difference()
        for size in {1, max(whole.micro_batch_size // 2, 1)} - {whole.micro_batch_size}:
            config = self._config(draw, replace(whole, micro_batch_size=size), self.folder / "runs" / f"micro-{size}")
            self.cpu_seconds += sum(self._pool(REFERENCE).run(train_segment, config))
            largest = largest.joined(difference(reference.output, config.output, exact=True))
        return Difference(loss=2 * largest.loss, norm=2 * largest.norm, weight=2 * largest.weight)

    def _config(self, draw: Draw, segment: Segment, run: Path) -> PretrainConfig:
        config = segment_config(draw, segment, data=self.folder / "data", run=run)
        check_inputs(config, world_size=segment.world_size)
        return config

    def _train(self, segments: Sequence[Segment], configs: Sequence[PretrainConfig], reference: PretrainConfig) -> None:
        """Train the reference on one core beside the first segment, then the other segments."""
        reference_pool = self._pool(REFERENCE)
        reference_pool.start(train_segment, reference)
        for segment, config in zip(segments, configs, strict=True):
            self.cpu_seconds += sum(self._pool(segment.world_size).run(train_segment, config))
        self.cpu_seconds += sum(reference_pool.results())

    def _pool(self, key: int) -> ProcessPool:
        if key not in self._pools:
            self._pools[key] = ProcessPool(max(key, 1))
            if self._mistake and key != REFERENCE:
                self._pools[key].run(self._mistake)
        return self._pools[key]

    def _close_pools(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


def train_segment(config: PretrainConfig) -> float:
    """Train in the groups of this pool, which stay; returns the CPU seconds of this process. Every rank must call it.

    Log lines go to a file beside the run folder.
    """
    parallel_state.create_group = _kept_group
    began, launch = time.process_time(), detect_launch()
    inputs = check_inputs(config, world_size=launch.world_size)
    with open(config.output.with_suffix(f".rank{launch.rank}.log"), "a") as log, redirect_stderr(log):
        train_in_groups(config, launch, inputs)
    parallel_state.destroy_model_parallel()
    gc.collect()
    return time.process_time() - began


_create_group = parallel_state.create_group
_groups: dict[tuple[Any, ...], Any] = {}


def _kept_group(ranks: Sequence[int], *, group_desc: str, backend: str | None = None, **settings: Any) -> Any:
    """Create a group like Megatron-core, or return that of an earlier run with the same ranks and purpose.

    Megatron-core forgets its groups without destroying them, and each has threads and sockets. It does destroy those
    whose backend it names, so these are not kept.
    """
    if backend:
        return _create_group(ranks, group_desc=group_desc, backend=backend, **settings)
    key = (tuple(ranks), group_desc)
    if key not in _groups:
        _groups[key] = _create_group(ranks, group_desc=group_desc, **settings)
    return _groups[key]


def difference(reference: Path, run: Path, *, exact: bool) -> Difference:
    """Compare the metrics and the last checkpoints of two run folders; see :class:`Difference` for ``exact``."""
    expected, found = _Figures.read(reference), _Figures.read(run)
    for name in ("losses", "norms"):
        missing = set(getattr(expected, name)) - set(getattr(found, name))
        if missing:
            raise LayoutMismatchError(f"has no {name} of {sorted(missing)}")
    losses = [abs(value - found.losses[key]) for key, value in expected.losses.items()]
    norms = [abs(value - found.norms[key]) / (value or 1.0) for key, value in expected.norms.items()]
    return Difference(
        loss=_largest(losses), norm=_largest(norms), weight=_largest(_weight_differences(reference, run, exact=exact))
    )


def _largest(values: Iterable[float]) -> float:
    """Return the maximum, or NaN if any value is NaN."""
    values = list(values)
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


@dataclass(frozen=True)
class _Figures:
    losses: dict[tuple[int, str], float] = field(default_factory=dict)
    """By iteration and name of the held-out dataset, "" for training."""
    norms: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> _Figures:
        figures = cls()
        for record in read_record_lines(run / METRICS_FILE, METRICS_KINDS):
            if isinstance(record, TrainRecord):
                figures.losses[record.iteration, ""] = record.last_loss
                if record.grad_norm is not None:
                    figures.norms[record.iteration] = record.grad_norm
            elif isinstance(record, ValidationRecord):
                figures.losses[record.iteration, record.dataset] = record.loss
        return figures


def _weight_differences(reference: Path, run: Path, *, exact: bool) -> Iterator[float]:
    expected, found = CheckpointReader(find_checkpoint(reference)), CheckpointReader(find_checkpoint(run))
    if set(expected.parameters) != set(found.parameters):
        raise LayoutMismatchError(f"parameters differ: {set(expected.parameters) ^ set(found.parameters)}")
    for name in expected.parameters:
        distance = expected.read_parameter(name) - found.read_parameter(name)
        yield float(distance.abs().max() if exact else distance.square().mean().sqrt())
