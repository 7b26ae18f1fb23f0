"""Generated tasks, small enough to run the complete chain, and to see an effect of pauses, in minutes.

parity
    ``0110100110010110:`` -> ``0`` or ``1``: is the number of ones odd? With causal attention a model can combine the
    bits only at positions after the last one; pauses add such positions. With a bidirectional prefix the bits see each
    other without pauses, so expect no difference. Some runs without pauses solve it too, so compare means over several
    seeds. Weights that start small (standard deviation 0.02 at width 64) do not learn it in thousands of steps. London
    and Kanade 2025 (arXiv 2505.21024) study parity with pauses, with hints at the pauses that are not used here.

lookup
    ``d5k2a9m0?k:`` -> ``2``: which digit followed this letter (associative recall)? Two attention hops answer it, so
    more positions should not help: it is the control. At width 32 a model was still guessing after 2000 steps
    (accuracy 0.27 to 0.30), so short runs tell little.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pause_megatron.atomic import new_folder, write_text
from pause_megatron.errors import UserError

PARITY_BITS = 16
LOOKUP_PAIRS = 8
ROUNDS = 50
"""Draws before a split is given up because the task has too few questions."""

Record = tuple[str, str]
"""A question and its answer."""
Draw = Callable[[np.random.Generator, int], list[Record]]
"""Draws any number of records."""


def write_task(
    name: str, folder: Path, *, seed: int, train: int = 50_000, validation: int = 500, test: int = 1000
) -> None:
    """Write ``folder/{train,validation,test}.jsonl`` with records {"question", "answer"}; the seed decides every byte.

    Validation and test questions are distinct and do not occur in the training split. Raises :class:`UserError` for an
    unknown task, a folder that exists, or more questions than the task has.
    """
    if name not in GENERATED_TASKS:
        raise UserError(f"generated task '{name}': unknown; tasks: {', '.join(GENERATED_TASKS)}")
    generator = np.random.default_rng(seed)
    draw_training, draw_held_out = GENERATED_TASKS[name]
    held_out = _draw(draw_held_out, generator, validation + test, avoid=set(), distinct=True)
    training = _draw(draw_training, generator, train, avoid={question for question, _ in held_out}, distinct=False)
    splits = {"train": training, "validation": held_out[:validation], "test": held_out[validation:]}
    with new_folder(folder) as temporary:
        for split, records in splits.items():
            lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in records]
            write_text(temporary / f"{split}.jsonl", "".join(lines))


def _draw(draw: Draw, generator: np.random.Generator, count: int, *, avoid: set[str], distinct: bool) -> list[Record]:
    """Draw ``count`` records with questions that are not in ``avoid`` and, if ``distinct``, that all differ."""
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
    raise UserError(f"{count} records: more than this generated task has; ask for fewer")


def _parity_records(bits: np.ndarray) -> list[Record]:
    return [("".join(map(str, row)) + ":", str(sum(row) % 2)) for row in bits.tolist()]


def _draw_parity_by_count(generator: np.random.Generator, count: int) -> list[Record]:
    """Draw strings with a uniform number of ones at random places: uniform bits give a small model no gradient."""
    ones = generator.integers(0, PARITY_BITS, size=(count, 1), endpoint=True)
    rank = generator.random((count, PARITY_BITS)).argsort(axis=1)  # a random permutation per row
    return _parity_records((rank < ones).astype(int))


def _draw_parity_uniform(generator: np.random.Generator, count: int) -> list[Record]:
    return _parity_records(generator.integers(0, 2, size=(count, PARITY_BITS)))


def _draw_lookup(generator: np.random.Generator, count: int) -> list[Record]:
    letters = generator.random((count, 26)).argsort(axis=1)[:, :LOOKUP_PAIRS]
    digits = generator.integers(0, 10, size=(count, LOOKUP_PAIRS))
    asked = generator.integers(0, LOOKUP_PAIRS, size=count)
    records = []
    for keys, values, place in zip(letters.tolist(), digits.tolist(), asked.tolist(), strict=True):
        names = [chr(ord("a") + key) for key in keys]
        pairs = "".join(f"{name}{value}" for name, value in zip(names, values, strict=True))
        records.append((f"{pairs}?{names[place]}:", str(values[place])))
    return records


GENERATED_TASKS: dict[str, tuple[Draw, Draw]] = {
    "parity": (_draw_parity_by_count, _draw_parity_uniform),
    "lookup": (_draw_lookup, _draw_lookup),
}
"""Functions that draw training records, and those of validation and test."""
