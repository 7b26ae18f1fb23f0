"""Losses on held-out text, the task ``text``: of texts in a file, or of a preprocessed dataset as training reads it.

Texts are scored one by one, as lm-evaluation-harness does it. A dataset is scored in its stored sequences, with the
pauses that it contains. Its loss is the validation loss of ``pause-megatron pretrain`` on the same dataset.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pause_megatron.config.downstream import EvaluateConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing, filler_ids, repeats_tokens
from pause_megatron.errors import UserError
from pause_megatron.pauses.loss_mask import loss_mask, pause_runs
from pause_megatron.pauses.pause_inputs import pause_inputs
from pause_megatron.pauses.positions import shared_positions
from pause_megatron.preprocess.dataset_manifest import DATASET_FILE, DatasetManifest, load_dataset_manifest
from pause_megatron.preprocess.shard_spans import spans_of
from pause_megatron.preprocess.token_blocks import read_blocks
from pause_megatron.records.evaluation import Metric
from pause_megatron.records.pretraining import perplexity

_POSITIONS_AT_ONCE = 16_384
"""Positions of a batch, all of whose logits are in memory: 2 GB in fp32 for a vocabulary of 32,000."""


@dataclass(frozen=True, kw_only=True)
class TextLosses:
    """Losses of several texts or sequences; arrays of shape [texts]."""

    sums: NDArray[np.float64]
    """Summed losses, in nats."""
    counts: NDArray[np.int64]
    """Real tokens that were predicted."""

    def metrics(self) -> dict[str, Metric]:
        """Return the mean loss of a real token, with its standard error over the texts, and the perplexity."""
        loss = float(self.sums.sum() / self.counts.sum())
        texts, error = len(self.sums), None
        if texts > 1:  # of a ratio of sums, to first order
            residuals = self.sums - loss * self.counts
            error = math.sqrt(float((residuals**2).sum()) * texts / (texts - 1)) / float(self.counts.sum())
        return {"loss": Metric(value=loss, stderr=error), "perplexity": Metric(value=perplexity(loss), stderr=None)}


def is_dataset(path: Path | None) -> bool:
    """Whether ``path`` is a folder of ``pause-megatron preprocess``."""
    return path is not None and (path / DATASET_FILE).is_file()


def stored_pausing(folder: ModelFolder, manifest: DatasetManifest) -> Pausing:
    """Return the pauses of a dataset as those of a prompt; random ones are no placement and count as none."""
    if manifest.strategy != "every":
        return Pausing(num_pauses=0)
    filler = folder.pretraining.filler if folder.pretraining else None
    return Pausing(
        num_pauses=manifest.pauses_per_token,
        placement="every",
        interval=manifest.interval,
        repeats_tokens=repeats_tokens(folder),
        filler=filler,
        filler_ids=filler_ids(folder, filler),
    )


def stored_dataset(folder: ModelFolder, config: EvaluateConfig) -> DatasetManifest:
    """Read the manifest of the dataset ``config.data``.

    Raises :class:`UserError` for an incomplete dataset, one of another tokenizer, sequences that are longer than the
    model's context, and pausing flags: the dataset contains its pauses.
    """
    assert config.data
    manifest = load_dataset_manifest(config.data)
    if config.pausing != InferencePausing(num_pauses_inf=config.pausing.num_pauses_inf) or config.pausing.numbers:
        raise UserError(
            f"--data {config.data}: contains its pauses; remove --num-pauses-inf and the other pausing flags"
        )
    ids = manifest.vocab_size, manifest.eod_id, *manifest.pause_ids
    own = folder.model.config.get_text_config().vocab_size, folder.eod_id, *folder.pause_ids
    if ids != own:
        raise UserError(
            f"--data {config.data}: has the vocabulary size, end-of-document and pauses {ids}, but {folder.path} has"
            f" {own}; give a dataset of the model's tokenizer"
        )
    length = seq_length(folder, manifest)
    needed = manifest.most_real_tokens(length) if folder.shares_positions else length
    if needed > folder.context_length:
        kind = "real tokens" if folder.shares_positions else "tokens"
        raise UserError(
            f"--data {config.data}: has sequences of {needed} {kind}, but {folder.path} has {folder.context_length}"
            " positions; give a dataset with shorter sequences"
        )
    return manifest


def seq_length(folder: ModelFolder, manifest: DatasetManifest) -> int:
    """Return the tokens of a sequence; documents are packed into sequences as long as those of pretraining."""
    return manifest.seq_length or (folder.pretraining.seq_length if folder.pretraining else folder.context_length)


@torch.no_grad()
def losses_of_dataset(folder: ModelFolder, manifest: DatasetManifest, config: EvaluateConfig) -> TextLosses:
    """Return the losses of the first ``config.limit`` sequences of ``config.data``, in stored order.

    Raises :class:`UserError` for ids beyond the vocabulary, and for losses that are not finite.
    """
    assert config.data
    length, pause_ids = seq_length(folder, manifest), manifest.pause_ids
    rows = max(1, min(config.batch_size, _POSITIONS_AT_ONCE // length))
    inputs_at_pauses = _inputs_at_pauses(folder)
    sums, counts = [], []
    remaining = islice(_samples(config.data, manifest, length), config.limit)
    while samples := list(islice(remaining, rows)):
        ids = _stacked(samples, manifest, config.data).to(folder.model.device)  # [rows, length + 1]
        read, labels = ids[:, :-1], ids[:, 1:]
        runs = pause_runs(read, pause_ids)
        read = pause_inputs(read, runs, **inputs_at_pauses)
        inputs: dict[str, torch.Tensor] = {}
        if folder.shares_positions:
            # Without a mask transformers takes repeated positions for several sequences in a row.
            inputs = {"position_ids": shared_positions(runs == 0), "attention_mask": torch.ones_like(read)}
        logits = folder.model(input_ids=read, use_cache=False, **inputs).logits.float()  # [rows, length, vocabulary]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").double()  # [rows, length]
        is_target = loss_mask(labels, pause_ids)
        sums.append((losses * is_target).sum(1).cpu().numpy())
        counts.append(is_target.sum(1).cpu().numpy())
    found = TextLosses(sums=np.concatenate(sums), counts=np.concatenate(counts))
    if not np.isfinite(found.sums).all():
        raise UserError(
            f"{folder.path}: the losses on {config.data} are not finite; use --precision fp32, or a model"
            " trained with a lower learning rate"
        )
    return found


def _inputs_at_pauses(folder: ModelFolder) -> dict[str, Any]:
    """Return the arguments of :func:`pause_inputs` for a model, as in its pretraining."""
    filler = filler_ids(folder, folder.pretraining.filler if folder.pretraining else None)
    ids = None if filler is None else torch.tensor(filler, device=folder.model.device)
    return {"repeats_tokens": repeats_tokens(folder), "filler": ids}


def _stacked(samples: Sequence[NDArray[np.integer]], manifest: DatasetManifest, path: Path) -> torch.Tensor:
    stacked = np.stack(samples).astype(np.int64)
    if stacked.min() < 0 or stacked.max() >= manifest.vocab_size:
        raise UserError(f"{path}: has ids beyond its vocabulary; run `pause-megatron verify-dataset --data {path}`")
    return torch.from_numpy(stacked)


def _samples(path: Path, manifest: DatasetManifest, length: int) -> Iterator[NDArray[np.integer]]:
    """Yield the tokens of each sequence and the token after them, [length + 1], as training does.

    A sequence without a known token after it ends with ``<pause>``, which carries no loss.
    """
    if manifest.strategy == "document":
        yield from _packed_documents(path, manifest, length)
        return
    for span in spans_of(path, manifest):
        waiting = None  # the last sequence, until the token after it is known
        for block in read_blocks(span, manifest.settings):
            for row in block.tokens.reshape(-1, length):
                if waiting is not None:
                    yield np.append(
                        waiting, row[:1] if manifest.trimmed == "carry" else waiting.dtype.type(manifest.pause_id)
                    )
                waiting = row
        if waiting is not None:
            yield np.append(waiting, waiting.dtype.type(manifest.pause_id))


def _packed_documents(path: Path, manifest: DatasetManifest, length: int) -> Iterator[NDArray[np.integer]]:
    """Yield samples of all documents in a row, in stored order; the last token of each starts the next one."""
    blocks = (block.tokens for span in spans_of(path, manifest) for block in read_blocks(span, manifest.settings))
    rest: NDArray[np.integer] = np.empty(0, np.int64)
    for tokens in blocks:
        rest = np.concatenate([rest, tokens])
        complete = max(0, len(rest) - 1) // length
        for start in range(0, complete * length, length):
            yield rest[start : start + length + 1]
        rest = rest[complete * length :]
