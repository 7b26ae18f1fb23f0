"""Comparison of dataset files with the hashes in their manifests, before the first step.

Every index is compared, because a wrong index gives other sequences. It takes about a second per GB: an index has 20
bytes for a sequence. The ``.bin`` files are hundreds of times as large, and are compared with ``--verify-data`` only.
Each node compares all files, because it may have its own disk; its ranks divide the work.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch.distributed as dist

from pause_megatron import log
from pause_megatron.data.data_folders import DataFolder
from pause_megatron.errors import UserError
from pause_megatron.parallel.collectives import gather_from_ranks, raise_on_all_ranks
from pause_megatron.preprocess.dataset_manifest import StoredFile, stored_files
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.shard_spans import ShardSpan, spans_of
from pause_megatron.preprocess.token_blocks import sha256_of
from pause_megatron.preprocess.verification.index_checks import check_file

Check = Callable[[], None]


def verify_files(
    folders: Sequence[DataFolder], *, tokens: bool, is_stopping: Callable[[], bool] = lambda: False
) -> None:
    """Compare the indices of ``folders``, and with ``tokens`` the ``.bin`` files too. A collective.

    Returns early, with files not compared, when ``is_stopping`` returns True. Raises :class:`UserError` on every rank
    that names a file which is not as it was written, or cannot be read.
    """
    started, failure = time.monotonic(), None
    hosts, rank = gather_from_ranks(socket.gethostname(), str), dist.get_rank()
    place, ranks_here = hosts[:rank].count(hosts[rank]), hosts.count(hosts[rank])
    for check in list(_checks(folders, tokens))[place::ranks_here]:
        if is_stopping():
            break
        try:
            check()
        except UserError as error:
            failure = str(error)
            break
        except OSError as error:
            failure = f"{error.filename or 'a dataset file'}: cannot be read ({error.strerror or error}); copy it again"
            break
    raise_on_all_ranks(failure)
    if tokens and not is_stopping():
        size = sum(file.bin_bytes for folder in folders for file in stored_files(folder.manifest))
        log.info(f"verified {size / 1e9:.3g} GB of data in {time.monotonic() - started:.1f} s")


def _checks(folders: Sequence[DataFolder], tokens: bool) -> Iterator[Check]:
    for folder in folders:
        for file in stored_files(folder.manifest):
            yield partial(_check_index, folder.path, file, folder.manifest.settings)
    for folder in folders if tokens else ():
        for span in spans_of(folder.path, folder.manifest):
            yield partial(_check_tokens, span)


def _check_index(folder: Path, file: StoredFile, settings: DatasetSettings) -> None:
    if faults := check_file(folder, file, settings, hashes=True).lines():
        raise UserError(f"{faults[0]}; copy the dataset again, or preprocess it again")


def _check_tokens(span: ShardSpan) -> None:
    size = span.shard.bin_bytes
    if sha256_of(span.bin_path, span.first_byte, size) != span.shard.bin_sha256:
        raise UserError(
            f"{span.label()}: the SHA-256 of bytes {span.first_byte} to {span.first_byte + size} is not the manifest's;"
            " copy the dataset again, or preprocess it again"
        )
