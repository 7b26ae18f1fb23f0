"""A small family of generated tasks, so that the whole chain can be run, and pausing seen to matter, in minutes.

parity
    ``0110100110010110:`` -> ``0`` or ``1``: is the number of ones odd? Every bit is a token of its own and the answer
    depends on all of them, so under causal attention a model can gather it only at the positions after the last bit;
    pauses give it more of those. Training strings have a uniformly drawn number of ones (uniform bits give a small
    model no gradient to begin with); validation and test strings are uniform bits, which is stricter.

    It can show that under a *causal* prefix pauses make a small model learn faster and more reliably at a fixed budget.
    It cannot show that pauses make the impossible possible: some runs without pauses solve it too, so judge means over
    several seeds. Under the paper's bidirectional prefix little is left to show, because the bits then see each other
    without any pause. A model whose weights begin too small (standard deviation 0.02 at width 64) does not learn it in
    some thousand steps whatever the pauses. A wrong bit flips the answer, which makes parity an unkind measure of how
    gracefully a model bears another number of pauses than it was trained with. London and Kanade 2025
    (arXiv 2505.21024) study parity with pauses, with hints at the pauses that are not used here.

lookup
    ``d5k2a9m0?k:`` -> ``2``: which digit followed this letter (associative recall)? Two attention hops answer it.
    It is the control: more positions to compute at should not be needed, so a gain from pausing here would have to be
    explained by something else. It takes a small model long: at width 32 it had not begun to learn after 2000 steps
    (accuracy 0.27 to 0.30, what guessing among the digits shown gives), so little can be concluded from short runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pause_megatron.atomic import new_folder, write_text
from pause_megatron.errors import UserError

PARITY_BITS = 16
LOOKUP_PAIRS = 8
ROUNDS = 50
"""Draws after which a split is given up: the task has too few questions for it."""

Record = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class GeneratedTask:
    """How to draw any number of records, for training and for judging."""

    draw_training: Callable[[np.random.Generator, int], list[Record]]
    draw_held_out: Callable[[np.random.Generator, int], list[Record]]


def write_task(
    name: str, folder: Path, *, seed: int, train: int = 50_000, validation: int = 500, test: int = 1000
) -> None:
    """Write ``folder/{train,validation,test}.jsonl`` with records {"question", "answer"}; the seed decides every byte.

    Validation and test questions are all different and none of them stands in the training split. Raises
    :class:`UserError` for an unknown task, a folder that exists, or more questions than the task has.
    """
    if name not in GENERATED_TASKS:
        raise UserError(f"generated task '{name}': unknown; tasks: {', '.join(GENERATED_TASKS)}")
    task, generator = GENERATED_TASKS[name], np.random.default_rng(seed)
    held_out = _draw(task.draw_held_out, generator, validation + test, avoid=set(), distinct=True)
    training = _draw(task.draw_training, generator, train, avoid={question for question, _ in held_out}, distinct=False)
    splits = {"train": training, "validation": held_out[:validation], "test": held_out[validation:]}
    with new_folder(folder) as temporary:
        for split, records in splits.items():
            lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in records]
            write_text(temporary / f"{split}.jsonl", "".join(lines))


def _draw(
    draw: Callable[[np.random.Generator, int], list[Record]],
    generator: np.random.Generator,
    count: int,
    *,
    avoid: set[str],
    distinct: bool,
) -> list[Record]:
    """``count`` records whose questions are not in ``avoid`` and, if ``distinct``, differ from each other."""
    avoid = set(avoid)
    records: list[Record] = []
    for _ in range(ROUNDS):
        for question, answer in draw(generator, count - len(records)):
            if question in avoid:
                continue
            if distinct:
                avoid.add(question)
            records.append((question, answer))
        if len(records) == count:
            return records
    raise UserError(f"{count} records are more than this generated task can give; ask for fewer")


def _parity_records(bits: np.ndarray) -> list[Record]:
    return [("".join(map(str, row)) + ":", str(sum(row) % 2)) for row in bits.tolist()]


def _draw_parity_by_count(generator: np.random.Generator, count: int) -> list[Record]:
    """The number of ones is uniform in 0..16, their places are random."""
    ones = generator.integers(0, PARITY_BITS, size=(count, 1), endpoint=True)
    rank = generator.random((count, PARITY_BITS)).argsort(axis=1)
    return _parity_records((rank < ones).astype(int))


def _draw_parity_uniform(generator: np.random.Generator, count: int) -> list[Record]:
    """Every bit is uniform."""
    return _parity_records(generator.integers(0, 2, size=(count, PARITY_BITS)))


def _draw_lookup(generator: np.random.Generator, count: int) -> list[Record]:
    """Eight different letters with a digit each, and one of the letters asked for."""
    letters = generator.random((count, 26)).argsort(axis=1)[:, :LOOKUP_PAIRS]
    digits = generator.integers(0, 10, size=(count, LOOKUP_PAIRS))
    asked = generator.integers(0, LOOKUP_PAIRS, size=count)
    records = []
    for keys, values, place in zip(letters.tolist(), digits.tolist(), asked.tolist(), strict=True):
        names = [chr(ord("a") + key) for key in keys]
        pairs = "".join(f"{name}{value}" for name, value in zip(names, values, strict=True))
        records.append((f"{pairs}?{names[place]}:", str(values[place])))
    return records


GENERATED_TASKS = {
    "parity": GeneratedTask(draw_training=_draw_parity_by_count, draw_held_out=_draw_parity_uniform),
    "lookup": GeneratedTask(draw_training=_draw_lookup, draw_held_out=_draw_lookup),
}
