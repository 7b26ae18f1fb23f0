"""States of the Trainer that an interrupted finetuning resumes from: complete, verified, and the last two.

The Trainer writes a state, a folder ``checkpoint-STEP``, file by file and flushes nothing. When all processes are done,
rank 0 flushes the files and folders to disk and adds ``manifest.json`` with their checksums. A state without a manifest
is incomplete and gets removed. A state that differs from its manifest is set aside.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerState

from pause_megatron import log
from pause_megatron.atomic import fsync_path, sweep, temporary_name, write_json
from pause_megatron.checkpoint.checkpoint_folders import set_aside
from pause_megatron.checkpoint.checkpoint_manifest import (
    MANIFEST,
    DamagedCheckpointError,
    FileChecksum,
    checksum,
    file_checksum,
    unreadable,
    verify_file,
)
from pause_megatron.downstream.processes import raise_on_all_ranks, run_on_rank_0
from pause_megatron.errors import UserError, one_line, quoted, system_error
from pause_megatron.records.files import is_file_name, read_json

FORMAT = "pause_megatron/finetune-state/2"
SETTINGS = "settings.json"
"""File in the work folder that identifies the run: its settings, and the checksums of its model and data."""
KEPT = 2
"""States to keep, in addition to the best ones of early stopping."""
_STATE = re.compile(r"checkpoint-\d+")


class _StateManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of a state's ``manifest.json``."""

    files: dict[str, FileChecksum]
    """By path in the state's folder; DeepSpeed and FSDP write subfolders."""
    best: str | None
    """Folder name of the state with the lowest held-out loss so far; None without early stopping."""
    run: FileChecksum
    """Of the run's ``settings.json``: a state of another run does not fit, or continues with another model."""


def state_folder(work: Path, step: int) -> Path:
    """Return the folder of the state after ``step`` steps, as the Trainer names it."""
    return work / f"checkpoint-{step}"


def step_of(state: Path) -> int:
    """Return the step of a state from the name of its folder."""
    return int(state.name.rpartition("-")[2])


def read_trainer_state(state: Path) -> TrainerState:
    """Return the Trainer's own record of ``state``: step, logs, early stopping."""
    return TrainerState.load_from_json(str(state / "trainer_state.json"))


def is_finished(state: Path) -> bool:
    """Return whether training had ended at ``state``, by its number of steps or by early stopping."""
    found = read_trainer_state(state)
    control = found.stateful_callbacks.get("TrainerControl", {}).get("args", {})
    return bool(found.global_step >= found.max_steps or control.get("should_training_stop"))


class SafeTrainer(Trainer):
    """Trainer that completes each state that it saves, and logs the same losses after a resume.

    The Trainer logs the mean loss of the steps since its last log, and forgets those before a resume. Each process
    therefore saves their sum.

    Raises :class:`UserError` on every process if one of them cannot write a state, for example because the disk is
    full; the state before it then remains the newest.
    """

    _saved_losses: dict[str, Any] | None = None

    def restore_losses(self, state: Path) -> None:
        """Continue at the first step with the losses in ``state`` that were not logged."""
        self._saved_losses = read_json(state / _losses_file(self.args.process_index))

    def unlogged_losses(self) -> dict[str, Any]:
        """Return the sums of losses since the last log, JSON-ready."""
        return {"sum": self._tr_loss.item(), "last_logged_step": self._globalstep_last_logged}

    def continue_losses(self, unlogged: dict[str, Any]) -> None:
        """Continue the sums with those that :meth:`unlogged_losses` returned before the resume."""
        self._tr_loss += unlogged["sum"]
        self._globalstep_last_logged = unlogged["last_logged_step"]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on one micro-batch; the first time after a resume, restore the losses."""
        if self._saved_losses:
            self.continue_losses(self._saved_losses)
            self._saved_losses = None
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        work, step, failure = Path(self.args.output_dir), self.state.global_step, ""
        try:
            super()._save_checkpoint(*args, **kwargs)
            file = state_folder(work, step) / _losses_file(self.args.process_index)
            file.write_text(json.dumps(self.unlogged_losses()), encoding="utf-8")
        except (OSError, RuntimeError, SafetensorError) as error:
            if not _is_write_error(error):
                raise
            failure = (
                f"{work}: the state of step {step} could not be written ({one_line(error)}); free disk space if the"
                " disk is full, and run the same command again to resume from the state before"
            )
        raise_on_all_ranks(self.args, failure)
        run_on_rank_0(self.args, lambda: complete_state(work, step))


def _losses_file(rank: int) -> str:
    return f"losses_not_logged.{rank}.json"


def _is_write_error(error: Exception) -> bool:
    """Return whether ``error`` comes from the file system; PyTorch and safetensors raise errors of their own."""
    writers = ("PytorchStreamWriter", "inline_container")
    return bool(system_error(error)) or any(name in str(error) for name in writers)


def complete_state(work: Path, step: int) -> None:
    """Flush the state after ``step``, which all processes have written, add its manifest, and remove older states."""
    state = state_folder(work, step)
    paths = sorted(state.rglob("*"))
    for path in (*paths, state, work):
        fsync_path(path)
    files = {str(path.relative_to(state)): file_checksum(path) for path in paths if path.is_file()}
    best = read_trainer_state(state).best_model_checkpoint
    run = file_checksum(work / SETTINGS)
    manifest = _StateManifest(files=files, best=Path(best).name if best else None, run=run)
    content = {"format": FORMAT, **msgspec.to_builtins(manifest)}
    write_json(state / MANIFEST, {**content, "crc32": checksum(content)})
    complete = [each for each in _states(work) if (each / MANIFEST).exists()]
    kept = {name for each in complete[:KEPT] for name in (each.name, _best_of(each))}
    for old in complete:
        if old.name not in kept:
            retired = old.rename(temporary_name(old))  # from here on, it is not a state
            shutil.rmtree(retired)


def newest_intact_state(work: Path) -> Path | None:
    """Return the newest state of this run whose files and best state have their checksums; None if there is none.

    Removes what interrupted processes left half-written, and renames damaged states, with a warning.
    """
    sweep(work)
    for state in _states(work):
        if not (state / MANIFEST).exists():
            shutil.rmtree(state)
            continue
        try:
            best = _verified(state).best
            if best and best != state.name:
                _verified(work / Path(best).name)
        except DamagedCheckpointError as error:
            log.warn(f"{error}; renamed {state.name} to {set_aside(state).name}, trying the state before it")
            continue
        return state
    return None


def _states(work: Path) -> list[Path]:
    """Return the folders of all states, complete or not, the newest first."""
    return sorted(filter(lambda path: _STATE.fullmatch(path.name), work.iterdir()), key=step_of, reverse=True)


def _best_of(state: Path) -> str | None:
    try:
        return _read_manifest(state).best
    except UserError:
        return None  # if it is needed, newest_intact_state() will find out


def _verified(state: Path) -> _StateManifest:
    manifest = _read_manifest(state)
    if manifest.run != file_checksum(state.parent / SETTINGS):
        raise DamagedCheckpointError(f"{state}: belongs to another run, by the checksum of {SETTINGS} in it")
    for name, recorded in manifest.files.items():
        verify_file(state / name, recorded)
    return manifest


def _read_manifest(state: Path) -> _StateManifest:
    path = state / MANIFEST
    try:
        content: Any = json.loads(path.read_bytes())
        recorded = content.pop("crc32")
        if content["format"] != FORMAT or recorded != checksum(content):
            raise ValueError("the content does not match its checksum")
        manifest = msgspec.convert({key: content[key] for key in content if key != "format"}, _StateManifest)
        if strange := [name for name in manifest.files if not all(map(is_file_name, name.split("/")))]:
            raise ValueError(f"{quoted(strange[0])} is not a file in this folder")
        return manifest
    except OSError as error:
        raise unreadable(path, error) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from error


class AlreadyTrained(Exception):  # noqa: N818 - not an error
    """The state is loaded and needs no further step."""


class NoFurtherStep(TrainerCallback):
    """Ends training before its first step: the Trainer looks for the end only after a step, and would train on."""

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """End training; the weights are loaded."""
        raise AlreadyTrained
