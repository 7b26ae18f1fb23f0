"""Saves a run's checkpoints, at once or while training goes on.

Both ways are the same steps. Every process hands its pieces to a thread of its own, which writes, flushes and checksums
one file. When no process is writing any more, all of them meet in :meth:`CheckpointSaver.finish`: rank 0 hears what was
written, adds the manifest, and gives the folder its name. Saving at once means waiting for the thread where one stands;
saving asynchronously means copying the pieces to CPU memory first and calling :meth:`CheckpointSaver.poll` after every
step. The threads exchange nothing with each other: exchanges out of order would hang the run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from pause_megatron import log
from pause_megatron.atomic import fsync_path, write_json
from pause_megatron.checkpoint.folders import new_checkpoint, retire_old
from pause_megatron.checkpoint.manifest import FileRecord, Manifest, ParameterRecord
from pause_megatron.checkpoint.names import MANIFEST, checkpoint_name, shard_file
from pause_megatron.checkpoint.pieces import Contents, HostCopies, own_pieces
from pause_megatron.checkpoint.rank_0 import on_rank_0
from pause_megatron.checkpoint.reader import file_record
from pause_megatron.config.checkpoint import CheckpointConfig
from pause_megatron.engine import DeepSpeedEngine
from pause_megatron.engine.optimizer_state import loss_scaler_state, optimizer_step
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import NamedParameter


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What became of one process's file, as rank 0 hears of it."""

    file: str
    record: FileRecord | None
    """None when there was nothing to write, or it could not be written."""
    contents: Contents
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class _Save:
    """A checkpoint on its way."""

    iteration: int
    state: dict[str, Any]
    optimizer: dict[str, Any]
    folder: ExitStack
    """On rank 0: leaving it gives the folder its final name."""
    temporary: Path
    written: Future[_Written]


class CheckpointSaver:
    """Writes the checkpoints of one run; every process holds one, and all call the same methods in the same order."""

    def __init__(
        self,
        checkpoints: Path,
        config: CheckpointConfig,
        *,
        parameters: Sequence[NamedParameter],
        engine: DeepSpeedEngine,
    ) -> None:
        """Save into the folder ``checkpoints``, as ``config`` says, what ``engine`` keeps of ``parameters``."""
        self._checkpoints = checkpoints
        self._config = config
        self._parameters = parameters
        self._engine = engine
        self._copies = HostCopies()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._on_its_way: _Save | None = None
        self._removal: Future[None] | None = None

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Save weights, optimizer state and ``state`` (JSON) as ``iter_NNNNNNN``, or begin to; all processes call this.

        A checkpoint on its way is waited for first. One of the same iteration is replaced.

        Raises :class:`UserError` on every process when one of them could not write (a full disk, say); the checkpoint
        that was the newest before still is.
        """
        self.wait()
        file, folder = shard_file(dist.get_rank()), ExitStack()
        temporary = on_rank_0(lambda: folder.enter_context(new_checkpoint(self._checkpoints, iteration)))
        tensors, contents = own_pieces(self._parameters, self._engine, file)
        on_cpu = self._copies.take(tensors) if self._config.async_save else _on_cpu(tensors)
        self._on_its_way = _Save(
            iteration=iteration,
            state=json.loads(json.dumps(state)),  # as it is now; the run goes on
            optimizer={"step": optimizer_step(self._engine), "loss_scaler": loss_scaler_state(self._engine)},
            folder=folder,
            temporary=temporary,
            written=self._thread.submit(_write, temporary / file, on_cpu, contents),
        )
        if not self._config.async_save:
            self.wait()

    @property
    def unfinished(self) -> int:
        """1 while this process writes, else 0; for the training loop's exchange, whose largest goes to :meth:`poll`."""
        return int(self._on_its_way is not None and not self._on_its_way.written.done())

    def poll(self, unfinished: int) -> None:
        """Complete the checkpoint on its way when no process is writing any more.

        All processes call this with the largest :attr:`unfinished` of all. Raises as :meth:`save` does.
        """
        if not unfinished:
            self._finish()

    def wait(self) -> None:
        """Complete the checkpoint on its way, if there is one, however long that takes; all processes call this.

        Raises as :meth:`save` does.
        """
        self._finish()
        if self._removal is not None:
            self._removal.result()

    def _finish(self) -> None:
        """Wait for this process's file, then complete the checkpoint together with all the others."""
        if self._on_its_way is None:
            return
        save, self._on_its_way = self._on_its_way, None
        mine = save.written.result()
        everyones: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(mine, everyones)
        on_rank_0(lambda: self._complete(save, everyones or []))
        log.info(f"iteration {save.iteration:>6}  saved {self._checkpoints / checkpoint_name(save.iteration)}")

    def _complete(self, save: _Save, written: Sequence[_Written]) -> None:
        """Write the manifest, give the folder its name and have the thread remove what is not kept; on rank 0."""
        path = self._checkpoints / checkpoint_name(save.iteration)
        with save.folder:
            if failed := next((item for item in written if item.error), None):
                raise UserError(
                    f"{path} could not be written ({failed.file}: {failed.error}); make room if the disk is full, and"
                    " run the same command again: it goes on from the checkpoint before"
                )
            manifest = _manifest(save, written)
            manifest.check()  # what could not be read is not written
            write_json(save.temporary / MANIFEST, manifest.to_plain())
        for old in retire_old(self._checkpoints, self._config, newest=path):
            self._removal = self._thread.submit(shutil.rmtree, old, ignore_errors=True)


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``tensors`` themselves where they are on the CPU already, else copies."""
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _write(path: Path, tensors: dict[str, torch.Tensor], contents: Contents) -> _Written:
    """Write this process's file and flush it to disk; in the thread."""
    record, error = None, ""
    try:
        if tensors:
            save_file(tensors, path)
            fsync_path(path)
            record = file_record(path)
    except Exception as caught:  # safetensors has errors of its own; whatever it is, the others have to hear of it
        error = " ".join(str(caught).split()) or type(caught).__name__
    return _Written(file=path.name, record=record, contents=contents, error=error)


def _manifest(save: _Save, written: Sequence[_Written]) -> Manifest:
    parameters: dict[str, ParameterRecord] = {}
    for item in written:
        parameters |= item.contents.parameters
    return Manifest(
        state=save.state,
        optimizer=save.optimizer,
        files={item.file: item.record for item in written if item.record},
        parameters=parameters,
        fragments=[fragment for item in written for fragment in item.contents.fragments],
    )
