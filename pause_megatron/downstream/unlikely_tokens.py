"""The least likely tokens of a target, before which finetuning puts pauses (``--pause-placement before-unlikely``).

Dynamic Inserting Tokens Training (DIT; Kim et al., Findings of ACL 2025, arXiv 2506.03616) inserts pauses into the
target where its model is least confident. The loss at pauses is ignored, so the model does not learn to emit them. DIT
scores each example again in every step, with the model in training. Here a model scores all examples once, before
finetuning: by default the model itself.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pause_megatron import log
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.added_pause import load_base
from pause_megatron.downstream.batching import align
from pause_megatron.downstream.generation import bad_logits
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import encode_pair
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import PausedTokens
from pause_megatron.tokenizer import PAUSE_TOKEN
from pause_megatron.tokenizer.token_marks import PAUSE_MARK

_POSITIONS_AT_ONCE = 16_384
"""Positions of a batch, all of whose logits are in memory: 2 GB in fp32 for a vocabulary of 32,000."""


def places_of(pairs: Sequence[TextPair], base: ModelFolder, config: FinetuneConfig) -> list[list[int]] | None:
    """Return :func:`unlikely_places` by the scoring model of ``config``; None for other placements and without pauses.

    Raises :class:`UserError` for a scoring model with another tokenizer, and for the errors of loading it.
    """
    pausing = config.pausing
    if pausing.pause_placement != "before-unlikely" or not pausing.range[1]:
        return None
    assert pausing.unlikely_tokens
    scorer = base
    if pausing.scoring_model or config.fsdp:  # FSDP has the base on the CPU
        scorer = load_model_folder(pausing.scoring_model) if pausing.scoring_model else load_base(config)
        _require_same_tokens(scorer, base, pausing.scoring_model or config.model)
    log.info(f"finding the {pausing.unlikely_tokens} least likely tokens of {len(pairs)} answers with {scorer.path}")
    return unlikely_places(pairs, scorer, pausing.unlikely_tokens, config.batch_size)


def unlikely_places(
    pairs: Sequence[TextPair], scorer: ModelFolder, count: int, batch_size: int = 16
) -> list[list[int]]:
    """Return, for each pair, the indices of the ``count`` least likely tokens of its target, in ascending order.

    Candidates are all tokens that finetuning learns, with the end-of-document token; a shorter target has fewer. Of
    equally likely tokens the first ones count. ``scorer`` reads prompt and target with the pauses and the attention
    that it has in ``evaluate`` without flags.

    Raises :class:`UserError` for log-probabilities that are not finite.
    """
    rows = max(1, min(batch_size, _POSITIONS_AT_ONCE // scorer.context_length))
    places: list[list[int]] = []
    for first in range(0, len(pairs), rows):
        several = [pairs[index] for index in range(first, min(first + rows, len(pairs)))]
        for scores in _log_probabilities(several, scorer):
            least = np.argsort(scores, kind="stable")[:count]
            places.append(sorted(least.tolist()))
    return places


@torch.no_grad()
def _log_probabilities(pairs: Sequence[TextPair], scorer: ModelFolder) -> list[np.ndarray]:
    """Return the log-probabilities of each pair's target tokens, [target tokens]."""
    pausing = resolve_pausing(scorer, InferencePausing())
    prefixes, targets, learned = [], [], []
    for pair in pairs:
        context, ids = encode_pair(pair, scorer)
        # The last token is predicted but not read, so it needs no position.
        prefix = pausing.prefix(scorer, pair.context, context, scorer.context_length - len(ids) + 1)
        prefixes.append(prefix)
        targets.append(pausing.target(scorer, prefix, ids))
        learned.append(torch.from_numpy(ids))
    read = [PausedTokens(target.ids[:-1], target.is_pause[:-1]) for target in targets]
    batch = align(prefixes, read, scorer.eod_id, shares_positions=scorer.shares_positions).to(scorer.model.device)
    inputs = batch.model_inputs(bidirectional=pausing.bidirectional, dtype=scorer.model.dtype)
    logits = scorer.model(**inputs).logits.float()  # [rows, longest target, vocabulary]
    found = []
    for row, target, labels, pair in zip(logits.log_softmax(dim=-1).cpu(), targets, learned, pairs, strict=True):
        scores = row[: len(target)][torch.from_numpy(~target.is_pause)].gather(1, labels[:, None])[:, 0]
        if not scores.isfinite().all():
            raise bad_logits(scorer, pair.context)
        found.append(scores.numpy())
    return found


def _pauses_of(folder: ModelFolder) -> set[tuple[str, int]]:
    """Return names and ids of ``<pause>``, which ``--add-pause`` adds to one of two models."""
    return {(name, folder.pause_id) for name in (PAUSE_TOKEN, PAUSE_MARK) if folder.pause_id is not None}


def _require_same_tokens(scorer: ModelFolder, base: ModelFolder, path: Path) -> None:
    known, others = (each.tokenizer.get_vocab().items() - _pauses_of(each) for each in (scorer, base))
    if known != others or scorer.bos_ids != base.bos_ids:
        raise UserError(
            f"--scoring-model {path}: has another tokenizer than {base.path}; give a model with the same one"
        )
