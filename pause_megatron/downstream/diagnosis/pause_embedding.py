"""The input embedding of ``<pause>``: its movement over the checkpoints of a pretraining, and its neighbours."""

from pathlib import Path

import torch

from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_folders, is_complete
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.errors import UserError
from pause_megatron.model.parameters import WORD_EMBEDDINGS
from pause_megatron.records.diagnosis import EmbeddingRecord

_NEIGHBOURS = 5


def measure_embedding(folder: ModelFolder, run: Path | None) -> tuple[EmbeddingRecord, ...]:
    """Measure the embedding in each complete checkpoint of ``run``, the oldest first, and in the model.

    Raises :class:`UserError` if ``run`` has no complete checkpoint, or is of another model.
    """
    pause_id, rows = folder.pause_id, len(folder.tokenizer)
    assert pause_id is not None
    own = folder.model.get_input_embeddings().weight.detach().float().cpu()[:rows]  # [tokens, H]
    states: list[tuple[int | None, torch.Tensor]] = [*_stored(run, own.shape), (None, own)] if run else [(None, own)]
    first = states[0][1][pause_id]
    return tuple(_record(folder, iteration, weights, pause_id, first) for iteration, weights in states)


def _stored(run: Path, shape: torch.Size) -> list[tuple[int | None, torch.Tensor]]:
    found: list[tuple[int | None, torch.Tensor]] = []
    for path in reversed([path for path in checkpoint_folders(run / CHECKPOINTS) if is_complete(path)]):
        weights = CheckpointReader(path).read_parameter(WORD_EMBEDDINGS)
        if weights.shape[1] != shape[1] or len(weights) < shape[0]:
            raise UserError(
                f"--pretrain {run}: its embeddings are {list(weights.shape)}, those of the model {list(shape)};"
                " give the run that the model comes from"
            )
        found.append((int(path.name.removeprefix("iter_")), weights[: shape[0]].clone()))
    if not found:
        raise UserError(
            f"--pretrain {run}: holds no complete checkpoint; give a run folder of 'pause-megatron pretrain'"
        )
    return found


def _record(
    folder: ModelFolder, iteration: int | None, weights: torch.Tensor, pause_id: int, first: torch.Tensor
) -> EmbeddingRecord:
    """Describe row ``pause_id`` of ``weights``, [tokens, H]."""
    row = weights[pause_id]
    is_text = torch.ones(len(weights), dtype=torch.bool)
    is_text[pause_id] = False
    cosines = torch.cosine_similarity(weights, row, dim=1).masked_fill(~is_text, -torch.inf)
    nearest = cosines.topk(min(_NEIGHBOURS, len(weights) - 1))
    return EmbeddingRecord(
        iteration=iteration,
        norm=float(row.norm()),
        norm_of_text=float(weights[is_text].norm(dim=1).mean()),
        movement=float((row - first).norm()),
        cosine_with_first=float(torch.cosine_similarity(row, first, dim=0)),
        cosine_with_mean=float(torch.cosine_similarity(row, weights[is_text].mean(dim=0), dim=0)),
        nearest=tuple(folder.tokenizer.convert_ids_to_tokens(nearest.indices.tolist())),
        nearest_cosine=tuple(nearest.values.tolist()),
    )
