"""Training budgets of a study: models of one size must have seen equally many tokens, or equally many real tokens."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

from pause_megatron.config.preprocess import InsertionConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flat_fields
from pause_megatron.config.study import Equality, Pretraining, StudyModel
from pause_megatron.config.training import TrainingConfig
from pause_megatron.errors import UserError
from pause_megatron.pauses.pause_counts import pause_fraction, pauses_per_sequence
from pause_megatron.pauses.positions import most_real_tokens
from pause_megatron.preprocess.dataset_manifest import read_dataset_manifest
from pause_megatron.training.schedule import BatchSchedule

Run = tuple[str, str, int]
"""Name of a model, its size and its seed."""
TOLERANCE = 0.01
"""Relative difference up to which two numbers of tokens count as equal."""


def iterations_of(study: Pretraining, model: StudyModel, settings: Mapping[str, Any], *, equal: Equality) -> int:
    """Return the steps of ``model`` with ``settings`` of pretraining, from the steps that the study gives.

    With ``equal`` "real_tokens", these are the steps of a model without pauses; a model with pauses needs more. For
    example, one that has a pause after every token needs twice as many.
    """
    steps: int = study.train["train_iters"]
    if equal != "real_tokens":
        return steps
    asked, share = _batches({**study.train, "train_iters": steps}).consumed_samples(steps), real_share(model)
    batches = _batches({**settings, "train_iters": steps})
    return bisect_left(range(100 * steps), asked, key=lambda step: int(batches.consumed_samples(step) * share))


def _batches(settings: Mapping[str, Any]) -> BatchSchedule:
    known = flat_fields(TrainingConfig)
    return BatchSchedule(TrainingConfig(**{key: value for key, value in settings.items() if key in known}))


def real_share(model: StudyModel) -> float:
    """Return the expected share of real tokens in the training data of ``model``."""
    if model.insertion is None:
        assert model.data is not None
        return 1 - read_dataset_manifest(model.data).expected_pause_fraction
    return 1 / (1 + pauses_per_real_token(model.insertion))


def pauses_per_real_token(insertion: InsertionConfig) -> float:
    """Return the expected number of pauses for each real token."""
    if insertion.pauses == "sequence":
        inserted = pauses_per_sequence(insertion.pause_rate, insertion.seq_length)
        fraction = pause_fraction(inserted, insertion.seq_length, insertion.rates)
        return fraction / (1 - fraction)
    every = insertion.pauses_per_token / insertion.pause_interval
    return {"none": 0, "every": every, "document": insertion.pause_rate}[insertion.pauses]


def seq_length_of(model: StudyModel, config: PretrainConfig) -> int:
    """Return the tokens of a training sequence."""
    stored = read_dataset_manifest(model.data).seq_length if model.data else 0
    if model.insertion and model.insertion.pauses != "document":
        stored = model.insertion.seq_length
    return stored or config.training.seq_length or config.model.max_position_embeddings


def positions_of(model: StudyModel, config: PretrainConfig) -> int:
    """Return the positions that a training sequence needs; pauses need none if they share those of real tokens."""
    length, insertion = seq_length_of(model, config), model.insertion
    if not config.model.shares_positions:
        return length
    if model.data:
        return read_dataset_manifest(model.data).most_real_tokens(length)
    if insertion and insertion.pauses == "every":
        return most_real_tokens(length, insertion.pauses_per_token, insertion.pause_interval)
    return length


def check_budgets(study: Pretraining, configs: Mapping[Run, PretrainConfig], where: str, *, equal: Equality) -> None:
    """Raise :class:`UserError` unless the models of each size can be compared."""
    if equal == "nothing":
        return
    for size in study.sizes:
        found = {
            name: (study.models[name], config)
            for (name, of_size, seed), config in configs.items()
            if of_size == size and seed == study.seeds[0]
        }
        (first, reference), *others = found.items()
        for name, compared in others:
            for what, ours, theirs in _amounts(compared, reference, equal):
                if abs(ours / theirs - 1) > TOLERANCE:
                    raise UserError(
                        f"{where}: models: {name} of size {size}: {what.format(f'{ours:,.0f}')}, but {first}"
                        f" {what.format(f'{theirs:,.0f}')}; give both the same, or set 'equal: nothing' in the file"
                    )


def _amounts(
    one: tuple[StudyModel, PretrainConfig], other: tuple[StudyModel, PretrainConfig], equal: Equality
) -> Iterator[tuple[str, float, float]]:
    """Yield a sentence, and the number in it for both models, of all that must be equal."""
    (our_model, ours), (their_model, theirs) = one, other
    our_length, their_length = seq_length_of(our_model, ours), seq_length_of(their_model, theirs)
    yield "reads sequences of {} tokens", our_length, their_length
    (our_tokens, our_real_tokens), (their_tokens, their_real_tokens) = tokens_of(*one), tokens_of(*other)
    if equal == "tokens":
        yield "trains on {} tokens", our_tokens, their_tokens
    else:
        yield "trains on {} real tokens", our_real_tokens, their_real_tokens


def tokens_of(model: StudyModel, config: PretrainConfig) -> tuple[int, float]:
    """Return the tokens that ``model`` will be trained on, and the expected number of real tokens."""
    samples = BatchSchedule(config.training).consumed_samples(config.training.train_iters)
    tokens = samples * seq_length_of(model, config)
    return tokens, tokens * real_share(model)
