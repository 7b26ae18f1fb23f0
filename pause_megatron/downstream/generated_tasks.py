"""Generated tasks, small enough to run the complete chain, and to see an effect of pauses, in minutes.

parity
    ``0110100110010110:`` -> ``0`` or ``1``: is the number of ones odd? With causal attention a model can combine the
    bits only at positions after the last one; pauses add such positions. With a bidirectional prefix the bits see each
    other without pauses, so expect no difference. Some runs without pauses solve it too, so compare means over several
    seeds. Weights that start small (standard deviation 0.02 at width 64) do not learn it in thousands of steps.
    Hint i, from 1: are there at least i ones? London and Kanade 2025 (arXiv 2505.21024) label the pauses with these
    thresholds, and train on uniform bits (``train_counts="binomial"``).

lookup
    ``d5k2a9m0?k:`` -> ``2``: which digit followed this letter (associative recall)? Two attention hops answer it, so
    more positions should not help: it is the control. At width 32 a model was still guessing after 2000 steps
    (accuracy 0.27 to 0.30), so short runs tell little.

3sum
    ``a05b75c22d13e30f47:`` -> ``0`` or ``1``: do three of the vectors add up to zero, digit by digit, modulo 10 (Pfau
    et al. 2024, arXiv 2404.15758)? Half of the questions have such a triple: one vector of a random question is
    replaced by what completes two others. The hints are a chain of thought that can be computed in parallel. There is
    one for each pair of vectors that precede a third, in the order ab, ac, bc, ad, ...: does a later vector complete
    the pair? Pfau et al. write the sums of pairs instead, and make questions without a triple in another way.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pause_megatron import log
from pause_megatron.atomic import new_folder, write_text
from pause_megatron.config.generated_tasks import TASK_PARAMETERS, Counts, GenerateTaskConfig, Lookup, Parity, ThreeSum
from pause_megatron.errors import UserError
from pause_megatron.records.files import write_record
from pause_megatron.records.generated_task import GeneratedTaskRecord

ROUNDS = 50
"""Draws before a split is given up because the task has too few questions."""

Record = tuple[str, str, Sequence[str]]
"""A question, its answer, and its hints, if any."""
Draw = Callable[[np.random.Generator, int], list[Record]]
"""Draws any number of records."""


def generate_task(config: GenerateTaskConfig) -> None:
    """Write the task that ``config`` asks for. Raises :class:`UserError` as :func:`write_task`."""
    write_task(
        config.task,
        config.output,
        seed=config.seed,
        train=config.train,
        validation=config.validation,
        test=config.test,
        **config.parameters,
    )
    log.info(f"wrote {config.output}: {config.train} training, {config.validation} validation, {config.test} test")


def write_task(
    name: str,
    folder: Path,
    *,
    seed: int,
    train: int = 50_000,
    validation: int = 500,
    test: int = 1000,
    **parameters: Any,
) -> None:
    """Write ``folder/{train,validation,test}.jsonl`` with records {"question", "answer"}, and the parameters and seed.

    The seed decides every byte. Validation and test questions are distinct and do not occur in the training split. With
    ``hints=True``, training records also have "hints". ``parameters`` are the fields of the task's class in
    :data:`~pause_megatron.config.generated_tasks.TASK_PARAMETERS`.

    Raises :class:`UserError` for an unknown task, a folder that exists, parameters that the task does not allow, or
    more questions than the task has.
    """
    if name not in TASK_PARAMETERS:
        raise UserError(f"generated task '{name}': unknown; tasks: {', '.join(TASK_PARAMETERS)}")
    chosen = TASK_PARAMETERS[name](**parameters)
    generator = np.random.default_rng(seed)
    draw_training, draw_held_out = _draws(chosen)
    held_out = _draw(draw_held_out, generator, validation + test, avoid=set(), distinct=True)
    training = _draw(draw_training, generator, train, avoid={question for question, *_ in held_out}, distinct=False)
    record = GeneratedTaskRecord(
        task=name,
        parameters=asdict(chosen),
        num_hints=chosen.num_hints,
        seed=seed,
        train=train,
        validation=validation,
        test=test,
    )
    splits = {"train": training, "validation": held_out[:validation], "test": held_out[validation:]}
    with new_folder(folder) as temporary:
        for split, records in splits.items():
            lines = [_line(*one, hinted=split == "train" and chosen.num_hints > 0) for one in records]
            write_text(temporary / f"{split}.jsonl", "".join(lines))
        write_record(temporary / GeneratedTaskRecord.FILE, record)


def _line(question: str, answer: str, hints: Sequence[str], *, hinted: bool) -> str:
    return json.dumps({"question": question, "answer": answer, **({"hints": hints} if hinted else {})}) + "\n"


def _draws(task: Parity | Lookup | ThreeSum) -> tuple[Draw, Draw]:
    """Return the functions that draw training records, and those of validation and test."""
    if isinstance(task, Parity):
        return partial(_draw_parity, task, task.train_counts), partial(_draw_parity, task, task.test_counts)
    draw: Draw = partial(_draw_lookup, task) if isinstance(task, Lookup) else partial(_draw_three_sum, task)
    return draw, draw


def _draw(draw: Draw, generator: np.random.Generator, count: int, *, avoid: set[str], distinct: bool) -> list[Record]:
    """Draw ``count`` records with questions that are not in ``avoid`` and, if ``distinct``, that all differ."""
    avoid = set(avoid)
    records: list[Record] = []
    for _ in range(ROUNDS):
        for record in draw(generator, count - len(records)):
            if record[0] in avoid:
                continue
            if distinct:
                avoid.add(record[0])
            records.append(record)
        if len(records) == count:
            return records
    raise UserError(f"{count} records: more than this generated task has; ask for fewer")


def _draw_parity(task: Parity, counts: Counts, generator: np.random.Generator, count: int) -> list[Record]:
    """Draw uniform bits, or a uniform number of ones at random places: uniform bits give a small model no gradient."""
    if counts == "binomial":
        bits = generator.integers(0, 2, size=(count, task.bits))
    else:
        ones = generator.integers(0, task.bits, size=(count, 1), endpoint=True)
        rank = generator.random((count, task.bits)).argsort(axis=1)  # a random permutation per row
        bits = (rank < ones).astype(int)
    return [_parity_record(row, hints=task.hints) for row in bits.tolist()]


def _parity_record(bits: list[int], *, hints: bool) -> Record:
    ones = sum(bits)
    thresholds = [str(int(ones >= number)) for number in range(1, len(bits) + 1)] if hints else []
    return "".join(map(str, bits)) + ":", str(ones % 2), thresholds


def _draw_lookup(task: Lookup, generator: np.random.Generator, count: int) -> list[Record]:
    letters = generator.random((count, 26)).argsort(axis=1)[:, : task.pairs]
    digits = generator.integers(0, 10, size=(count, task.pairs))
    asked = generator.integers(0, task.pairs, size=count)
    records: list[Record] = []
    for keys, values, place in zip(letters.tolist(), digits.tolist(), asked.tolist(), strict=True):
        names = [_letter(key) for key in keys]
        pairs = "".join(f"{name}{value}" for name, value in zip(names, values, strict=True))
        records.append((f"{pairs}?{names[place]}:", str(values[place]), ()))
    return records


def _letter(index: int) -> str:
    return chr(ord("a") + index)


def _draw_three_sum(task: ThreeSum, generator: np.random.Generator, count: int) -> list[Record]:
    """Draw questions of which half have a triple."""
    wanted = generator.integers(0, 2, size=count).astype(bool)
    vectors = generator.integers(0, task.modulus, size=(count, task.vectors, task.digits))
    planted = np.sort(generator.random((count, task.vectors)).argsort(axis=1)[:, :3], axis=1)  # three places per row
    rows = np.flatnonzero(wanted)
    first, second, third = planted[rows].T
    vectors[rows, third] = -(vectors[rows, first] + vectors[rows, second]) % task.modulus
    while len(bad := np.flatnonzero(~wanted)[_completed(vectors[~wanted], task.modulus).any(axis=1)]):
        vectors[bad] = generator.integers(0, task.modulus, size=(len(bad), task.vectors, task.digits))
    completed = _completed(vectors, task.modulus)
    records: list[Record] = []
    for row, hints in zip(vectors.tolist(), completed.tolist(), strict=True):
        question = "".join(_letter(index) + "".join(map(str, digits)) for index, digits in enumerate(row))
        thoughts = [str(int(hint)) for hint in hints] if task.hints else []
        records.append((f"{question}:", str(int(any(hints))), thoughts))
    return records


def _completed(vectors: np.ndarray, modulus: int) -> np.ndarray:
    """Whether a later vector completes each pair to zero; [questions, vectors, digits] to [questions, pairs]."""
    number = vectors.shape[1]
    pairs = sorted(combinations(range(number - 1), 2), key=lambda pair: pair[::-1])
    found = np.zeros((len(vectors), len(pairs)), dtype=bool)
    for column, (first, second) in enumerate(pairs):
        needed = -(vectors[:, first] + vectors[:, second]) % modulus
        found[:, column] = (vectors[:, second + 1 :] == needed[:, None]).all(axis=2).any(axis=1)
    return found
