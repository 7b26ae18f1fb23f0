"""Numbers of pauses of sequences and documents, and the lengths that follow from them.

With ``--rates drawn`` each sequence or document has its own rate, drawn uniformly from 0 to twice the mean, so that a
model learns several numbers of pauses. The draws have a counter of their own and do not change the positions of pauses.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pause_megatron.pauses.counter_hash import Words, draws_below

Rates = Literal["fixed", "drawn"]

_COUNTER = np.array([-1])
"""Counter of the draw of a rate. Draws of positions count from 0."""
_STEPS = 1 << 31


def pauses_per_sequence(pause_rate: float, seq_length: int) -> int:
    """``floor(pause_rate * seq_length)``, the pauses inserted before trimming; for example, 204 for 0.1 and 2048."""
    return math.floor(round(pause_rate * seq_length, 6))  # round first: 0.29 * 100 is 28.999999999999996 in floats


def pauses_per_document(pause_rate: float | NDArray[np.float64], text_lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """``pause_rate``, one or one for each document, times each length (tokens of text), rounded half up."""
    return np.floor(np.round(pause_rate * text_lengths, 6) + 0.5).astype(np.int64)


def text_lengths_of(pause_rate: float | NDArray[np.float64], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the tokens of text in documents of these stored ``lengths`` (text, pauses and end of document).

    ``pause_rate`` is one rate, or one for each document.

    -1 marks a length that no document can have. For example, at a rate of 0.5 documents of 1, 2, 3 tokens are stored as
    1 + 1 + 1 = 3, 2 + 1 + 1 = 4 and 3 + 2 + 1 = 6 tokens, and none as 5.
    """
    stored = lengths.astype(np.int64)
    text = np.rint((stored - 1) / (1 + pause_rate)).astype(np.int64)
    # Rounding errs by one at most, and stored lengths grow strictly with the text, so one correction suffices.
    text += np.sign(stored - (text + pauses_per_document(pause_rate, text) + 1))
    return np.where(text + pauses_per_document(pause_rate, text) + 1 == stored, text, -1)


def draw_numbers(keys: Words, mean: int) -> NDArray[np.int64]:
    """Draw a number of pauses for each key, uniformly from 0 to ``2 * mean``; shape ``[K]``, that of ``keys``."""
    return draws_below(2 * mean + 1, keys, _COUNTER)


def draw_rates(keys: Words, mean: float) -> NDArray[np.float64]:
    """Draw a rate for each key, uniformly from 0 to below ``2 * mean``; shape ``[K]``, that of ``keys``."""
    return draws_below(_STEPS, keys, _COUNTER).astype(np.float64) * (2 * mean / _STEPS)


def pause_fraction(num_pauses: int, seq_length: int, rates: Rates) -> float:
    """Return the expected share of pauses in sequences that grow by ``num_pauses`` (on average) and are trimmed.

    A sequence that grows by n pauses keeps ``n * seq_length / (seq_length + n)`` of them on average.
    """
    numbers = np.arange(2 * num_pauses + 1) if rates == "drawn" else np.array([num_pauses])
    return float((numbers / (seq_length + numbers)).mean())
