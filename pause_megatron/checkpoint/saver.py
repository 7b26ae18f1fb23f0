"""Saves a run's checkpoints, synchronously or in the background.

Both modes take the same steps. Each rank passes its fragments to its own thread, which writes, flushes and checksums
one file. When all threads are done, all ranks meet in :meth:`CheckpointSaver._finish`: rank 0 gathers the file entries,
writes the manifest and renames the folder. A synchronous save waits for the thread at once. An asynchronous save first
copies the fragments to CPU memory, and training must call :meth:`CheckpointSaver.poll` after every step. The threads
run no collectives, which could interleave with those of training and hang the run.
"""

import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
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
from pause_megatron.checkpoint.checkpoint_folders import checkpoint_name, new_checkpoint, retire_old
from pause_megatron.checkpoint.checkpoint_manifest import (
    MANIFEST,
    TOKENIZER_FOLDER,
    FileChecksum,
    Manifest,
    ParameterRecord,
    file_checksum,
)
from pause_megatron.checkpoint.owned_fragments import FileContents, HostCopies, owned_fragments
from pause_megatron.config.training import CheckpointConfig
from pause_megatron.engine import Engine
from pause_megatron.engine.optimizer_state import loss_scaler_state, optimizer_step
from pause_megatron.errors import UserError, one_line
from pause_megatron.model.parameters import NamedParameter
from pause_megatron.parallel.collectives import gather_on_rank_0, run_on_rank_0


@dataclass(frozen=True, kw_only=True)
class _WriteResult:
    file: str
    checksum: FileChecksum | None
    """None if there was nothing to write or writing failed."""
    contents: FileContents
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class _PendingSave:
    """A checkpoint that is being written."""

    iteration: int
    state: dict[str, Any]
    optimizer: dict[str, Any]
    folder: ExitStack
    """On rank 0: closing it renames the folder to its final name."""
    temporary: Path
    result: Future[_WriteResult]


class CheckpointSaver:
    """Saves the checkpoints of one run. Every rank has one; all must call the same methods in the same order."""

    def __init__(
        self,
        checkpoints: Path,
        config: CheckpointConfig,
        *,
        parameters: Sequence[NamedParameter],
        engine: Engine,
        tokenizer: Mapping[str, bytes] | None = None,
    ) -> None:
        """
        Args:
            checkpoints: folder of all checkpoints of the run.
            config: which of them to keep.
            parameters: of the model on this rank.
            engine: of the model.
            tokenizer: name to content of the tokenizer's files, which each checkpoint contains too.
        """
        self._checkpoints = checkpoints
        self._config = config
        self._parameters = parameters
        self._engine = engine
        self._tokenizer = tokenizer or {}
        self._copies = HostCopies()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: _PendingSave | None = None
        self._removal: Future[None] | None = None

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Save weights, optimizer state and ``state`` (JSON) as ``iter_NNNNNNN``, or start to if saving asynchronously.

        Waits for a pending save first. Replaces a checkpoint of the same iteration.

        Raises :class:`UserError` on every rank if one of them cannot write, for example because the disk is full; the
        previous checkpoint then remains the newest.
        """
        self.wait()
        file, folder = f"rank{dist.get_rank():05d}.safetensors", ExitStack()
        temporary = run_on_rank_0(lambda: folder.enter_context(new_checkpoint(self._checkpoints, iteration)), Path)
        tensors, contents = owned_fragments(self._parameters, self._engine, file)
        on_cpu = self._copies.of_all(tensors) if self._config.async_save else self._copies.of_gpu(tensors)
        self._pending = _PendingSave(
            iteration=iteration,
            state=json.loads(json.dumps(state)),  # a copy: the caller may change it while the save is pending
            optimizer={"step": optimizer_step(self._engine), "loss_scaler": loss_scaler_state(self._engine)},
            folder=folder,
            temporary=temporary,
            result=self._thread.submit(_write, temporary / file, on_cpu, contents),
        )
        if not self._config.async_save:
            self.wait()

    @property
    def unfinished(self) -> int:
        """1 while this rank writes, otherwise 0; pass the maximum over all ranks to :meth:`poll`."""
        return int(self._pending is not None and not self._pending.result.done())

    def poll(self, unfinished: int) -> None:
        """Complete the pending checkpoint if no rank is still writing.

        ``unfinished`` must be the maximum of :attr:`unfinished` over all ranks. Raises as :meth:`save` does.
        """
        if not unfinished:
            self._finish()

    def wait(self) -> None:
        """Complete the pending checkpoint, if any, however long that takes. Raises as :meth:`save` does."""
        self._finish()
        if self._removal is not None:
            self._removal.result()

    def _finish(self) -> None:
        if self._pending is None:
            return
        save, self._pending = self._pending, None
        results = gather_on_rank_0(save.result.result(), _WriteResult)
        run_on_rank_0(lambda: self._complete(save, results))
        log.info(f"iteration {save.iteration:>6}  saved {self._checkpoints / checkpoint_name(save.iteration)}")

    def _complete(self, save: _PendingSave, results: Sequence[_WriteResult]) -> None:
        """On rank 0: write the manifest, rename the folder, and remove old checkpoints in the thread."""
        path = self._checkpoints / checkpoint_name(save.iteration)
        with save.folder:
            if failed := next((item for item in results if item.error), None):
                raise UserError(
                    f"{path}: could not be written ({failed.file}: {failed.error}); free disk space if the disk is"
                    " full, and run the same command again to resume from the previous checkpoint"
                )
            manifest = _manifest(save, results, _write_tokenizer(save.temporary, self._tokenizer))
            manifest.check()  # a reader would refuse an inconsistent manifest
            write_json(save.temporary / MANIFEST, manifest.to_plain())
        for old in retire_old(self._checkpoints, self._config, newest=path):
            self._removal = self._thread.submit(shutil.rmtree, old, ignore_errors=True)


def _write(path: Path, tensors: dict[str, torch.Tensor], contents: FileContents) -> _WriteResult:
    """Write this rank's file and flush it to disk; runs in the thread."""
    checksum, error = None, ""
    try:
        if tensors:
            save_file(tensors, path)
            fsync_path(path)
            checksum = file_checksum(path)
    except Exception as caught:  # safetensors has its own errors; all of them must reach the other ranks
        error = one_line(caught)
    return _WriteResult(file=path.name, checksum=checksum, contents=contents, error=error)


def _write_tokenizer(checkpoint: Path, files: Mapping[str, bytes]) -> dict[str, FileChecksum]:
    """Write the tokenizer's files, and return their entries in the manifest; closing the folder flushes them."""
    written = {}
    for name, content in files.items():
        path = checkpoint / TOKENIZER_FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        written[f"{TOKENIZER_FOLDER}/{name}"] = FileChecksum(bytes=len(content), crc32=zlib.crc32(content))
    return written


def _manifest(save: _PendingSave, results: Sequence[_WriteResult], tokenizer: Mapping[str, FileChecksum]) -> Manifest:
    parameters: dict[str, ParameterRecord] = {}
    for item in results:
        parameters |= item.contents.parameters
    return Manifest(
        state=save.state,
        optimizer=save.optimizer,
        files={item.file: item.checksum for item in results if item.checksum} | dict(tokenizer),
        parameters=parameters,
        fragments=[fragment for item in results for fragment in item.contents.fragments],
    )
