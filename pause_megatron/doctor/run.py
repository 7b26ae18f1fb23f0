"""Runs the checks of a machine, prints a line for each, and writes ``doctor.json``."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name

from pause_megatron.children import available_cores, start_child
from pause_megatron.config.checks import suggestion
from pause_megatron.config.doctor import DoctorConfig
from pause_megatron.config.parallel import DEVICE_VARIABLE
from pause_megatron.doctor.check import Check, Place
from pause_megatron.doctor.child import PROGRAM, Result, read_result, settings_of
from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import Launch, detect_launch
from pause_megatron.records.doctor import CheckRecord, DoctorRecord
from pause_megatron.records.files import write_record
from pause_megatron.versions import commit, versions

TABLE = "pause_megatron.doctor.table:CHECKS"
_GPU_COUNTS = (4, 2, 1)
_LOG_LINES = 30
_POLL_SECONDS = 0.1


def run_doctor(config: DoctorConfig, table: str = TABLE) -> None:
    """Run the checks of ``table``, and write ``config.output``.

    Raises :class:`UserError` for an unknown check, for more GPUs than there are, and if a check failed.
    """
    launch = detect_launch()
    if launch.world_size > 1:
        _meet(config, launch)
        return
    started = time.monotonic()
    checks = _chosen(resolve_name(table), config.only)
    gpus = _gpus(config.gpus)
    print(f"{socket.gethostname()}: {len(checks)} checks on {f'{gpus} GPUs' if gpus else 'the CPU'}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pause-megatron-doctor-") as folder:
        place = Place(folder=Path(folder), gpus=gpus, preset=config.preset)
        records = tuple(_Scheduler(place, table, checks).run())
    seconds = time.monotonic() - started
    record = DoctorRecord(
        host=socket.gethostname(),
        gpus=gpus,
        checks=records,
        commit=commit(),
        versions=versions(),
        seconds=round(seconds, 1),
    )
    write_record(config.output, record)
    counts = {outcome: [item.name for item in records if item.outcome == outcome] for outcome in ("passed", "skipped")}
    failed = [item.name for item in records if item.outcome == "failed"]
    print(
        f"{len(counts['passed'])} checks passed, {len(counts['skipped'])} skipped, {len(failed)} failed in"
        f" {seconds:.0f} s; wrote {config.output}",
        flush=True,
    )
    if failed:
        raise UserError(f"doctor: {', '.join(failed)} failed; the lines above name the fix, {config.output} has more")


def _meet(config: DoctorConfig, launch: Launch) -> None:
    """Check only that the processes of a launcher meet; the table's other checks start processes of their own."""
    from pause_megatron.doctor.rank_checks import meet

    figures = meet(Place(folder=config.output.parent, gpus=config.gpus or 0, preset=config.preset))
    if launch.rank == 0:
        print(f"passed   ranks: {figures['found']}", flush=True)


def _chosen(checks: tuple[Check, ...], only: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks named ``only`` and those that they need, or all."""
    names = [check.name for check in checks]
    for name in only:
        if name not in names:
            raise UserError(f"--only {name}: unknown check; {suggestion(name, names)}")
    wanted = set(only or names)
    for check in reversed(checks):
        if check.name in wanted:
            wanted.update(check.needs)
    return tuple(check for check in checks if check.name in wanted)


def _gpus(asked: int | None) -> int:
    """Return the number of GPUs to use. Raises :class:`UserError` if there are fewer, or if they cannot be used."""
    if asked == 0:
        return 0
    from pause_megatron.parallel.launcher import resolve_device_choice
    from pause_megatron.parallel.process_device import device_of_local_processes
    from pause_megatron.parallel.visible_gpus import find_visible_gpus

    choice = resolve_device_choice("cuda" if asked else "auto")
    if choice == "cpu":
        return 0
    found = find_visible_gpus()
    if device_of_local_processes(choice, found, asked or 1) == "cpu":
        return 0
    return next(count for count in _GPU_COUNTS if count <= (asked or found.count))


@dataclass
class _Running:
    check: Check
    child: subprocess.Popen[str]
    log: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


@dataclass
class _Scheduler:
    """Starts checks as soon as those they need have passed and their ranks have a core, or the GPUs, for themselves."""

    place: Place
    table: str
    waiting: Sequence[Check]
    running: list[_Running] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    """Name of a check that has ended to its outcome."""

    def run(self) -> Iterator[CheckRecord]:
        """Yield the record of each check when it ends, and print its line."""
        try:
            while self.waiting or self.running:
                for record in (*self._skip(), *self._collect()):
                    self.outcomes[record.name] = record.outcome
                    print(f"{record.outcome:8} {record.name} ({record.seconds:.1f} s): {record.message}", flush=True)
                    yield record
                self._start()
                time.sleep(_POLL_SECONDS)
        finally:
            for item in self.running:
                item.child.kill()
                item.child.wait()

    def _skip(self) -> Iterator[CheckRecord]:
        for check in tuple(self.waiting):
            unmet = [name for name in check.needs if self.outcomes.get(name) in ("failed", "skipped")]
            reason = check.why_not(self.place) or (f"needs {unmet[0]}" if unmet else "")
            if reason:
                self.waiting = [other for other in self.waiting if other is not check]
                yield CheckRecord(name=check.name, outcome="skipped", message=reason, seconds=0.0, figures={})

    def _slots(self, check: Check) -> int:
        """Cores that the ranks of ``check`` take; all of them for a check on GPUs, which runs alone there."""
        cores = available_cores()
        return cores if check.device_at(self.place) == "cuda" else min(check.ranks_at(self.place), cores)

    def _start(self) -> None:
        for check in tuple(self.waiting):
            if any(self.outcomes.get(name) != "passed" for name in check.needs):
                continue
            free = available_cores() - sum(self._slots(item.check) for item in self.running)
            if self._slots(check) > free:
                return  # later checks must not keep it waiting
            self.waiting = [other for other in self.waiting if other is not check]
            self.running.append(self._process(check))

    def _process(self, check: Check) -> _Running:
        device = check.device_at(self.place)
        environment = {DEVICE_VARIABLE: device, "TOKENIZERS_PARALLELISM": "false"}
        if device == "cpu":
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        log = self.place.folder / f"{check.name}.log"
        with open(log, "w", encoding="utf-8") as file:
            command = [*PROGRAM, settings_of(self.place, check, self.table)]
            child = start_child(command, environment, stdout=file, stderr=subprocess.STDOUT)
        return _Running(check, child, log)

    def _collect(self) -> Iterator[CheckRecord]:
        for item in tuple(self.running):
            if item.child.poll() is None and item.seconds < item.check.timeout:
                continue
            timed_out = item.child.poll() is None
            item.child.kill()
            item.child.wait()
            self.running.remove(item)
            result = None if timed_out else read_result(self.place, item.check)
            if result is None:
                result = Result("failed", _why_no_result(item, timed_out=timed_out), {})
            log = item.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            yield CheckRecord(
                name=item.check.name,
                outcome=result.outcome,
                message=result.message,
                seconds=round(item.seconds, 1),
                figures=result.figures,
                log=tuple(log) if result.outcome == "failed" else (),
            )


def _why_no_result(item: _Running, *, timed_out: bool) -> str:
    if timed_out:
        return f"no result within {item.check.timeout:.0f} s; run it again with --only {item.check.name}, and report it"
    return f"its process ended with exit code {item.child.returncode}; the record holds its last lines, report them"
