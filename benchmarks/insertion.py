#!/usr/bin/env python
"""Cost of inserting pauses, for every strategy, in nanoseconds of processor time per real token.

    python benchmarks/insertion.py --work work

A stream of random ids in documents as long as C4's (log-normal, 427 tokens on average) is passed to a strategy in
blocks of about a million tokens, as preprocessing does with four megabytes of text.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from measure import Spread, load_now, new_parser, require_at_least, save_table
from numpy.typing import NDArray

from pause_megatron.pauses.insertion import DocumentPauses, EveryTokenPauses, NoPauses, SequencePauses, Strategy
from pause_megatron.pauses.pause_counts import pauses_per_sequence

SEQ_LENGTH, PAUSE_RATE = 2048, 0.1
PAUSE_ID, EOD_ID, FIRST_TEXT_ID, VOCAB_SIZE = 2, 1, 3, 32_000
BLOCK_TOKENS = 1_000_000
TOKENS_PER_DOCUMENT = 427
_SIGMA = 1.0
"""Standard deviation of the logarithm of a document's length, as in C4."""
_SEED: dict[str, Any] = {"seed": 1234, "shard": 0}
_SEQUENCE = (SEQ_LENGTH, pauses_per_sequence(PAUSE_RATE, SEQ_LENGTH), PAUSE_ID)
_DOCUMENT = (PAUSE_RATE, PAUSE_ID, EOD_ID)

STRATEGIES: dict[str, Strategy] = {
    "sequence": SequencePauses(*_SEQUENCE, **_SEED, trimmed="carry", gaps="repeat"),
    "sequence, --trimmed drop": SequencePauses(*_SEQUENCE, **_SEED, trimmed="drop", gaps="repeat"),
    "sequence, --gaps distinct": SequencePauses(*_SEQUENCE, **_SEED, trimmed="carry", gaps="distinct"),
    "document": DocumentPauses(*_DOCUMENT, **_SEED, gaps="repeat"),
    "document, --gaps distinct": DocumentPauses(*_DOCUMENT, **_SEED, gaps="distinct"),
    "every, 1 pause": EveryTokenPauses(SEQ_LENGTH, 1, PAUSE_ID),
    "every, 3 pauses": EveryTokenPauses(SEQ_LENGTH, 3, PAUSE_ID),
    "none": NoPauses(SEQ_LENGTH),
}


def main() -> None:
    """Measure and print the table."""
    parser = new_parser(__doc__, repeats=7)
    parser.add_argument("--tokens", type=int, default=10_000_000, help="real tokens (default: ten million)")
    arguments = parser.parse_args()
    require_at_least(10_000, arguments, "tokens")
    require_at_least(1, arguments, "repeats")
    load, blocks = load_now(), make_blocks(arguments.tokens)
    seconds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    stored: dict[str, int] = {}
    for _ in range(arguments.repeats):
        for name, strategy in STRATEGIES.items():
            taken, stored[name] = pack_all(strategy, blocks)
            seconds[name].append(taken)
    tokens = sum(map(len, blocks))
    nanoseconds = {name: Spread.of(taken / tokens * 1e9 for taken in values) for name, values in seconds.items()}
    rows = [
        [name, spread.show(bold=True), f"{spread.median * tokens / stored[name]:.2f}"]
        for name, spread in nanoseconds.items()
    ]
    save_table(
        arguments.work,
        "insertion",
        title="Pause insertion",
        text=f"{tokens / 1e6:.0f} million real tokens in blocks of {BLOCK_TOKENS / 1e6:g} million, sequences of "
        f"{SEQ_LENGTH}, pause rate {PAUSE_RATE}; {arguments.repeats} repeats. Nanoseconds of processor time: median "
        "(lowest-highest).",
        header=["strategy", "per real token", "per stored token"],
        rows=rows,
        load=load,
        measurements={"tokens": tokens, "seconds": seconds, "stored": stored},
    )


def make_blocks(tokens: int) -> list[NDArray[np.integer]]:
    """About ``tokens`` random ids in blocks; an end-of-document token closes each document."""
    random = np.random.default_rng(1234)
    mean = np.log(TOKENS_PER_DOCUMENT) - _SIGMA**2 / 2  # of the logarithm, so that the mean length is 427
    blocks: list[NDArray[np.integer]] = []
    while (left := tokens - sum(map(len, blocks))) > 0:
        size = min(left, BLOCK_TOKENS)
        lengths = np.maximum(1, random.lognormal(mean, _SIGMA, size // TOKENS_PER_DOCUMENT + 1)).astype(np.int64)
        block = random.integers(FIRST_TEXT_ID, VOCAB_SIZE, size=int(lengths.sum()) + len(lengths), dtype=np.uint16)
        block[np.cumsum(lengths + 1) - 1] = EOD_ID
        blocks.append(block)
    return blocks


def pack_all(strategy: Strategy, blocks: list[NDArray[np.integer]]) -> tuple[float, int]:
    """Processor seconds for packing all ``blocks``, and the number of stored tokens."""
    sequences, stored, seconds = 0, 0, 0.0
    rest = blocks[0][:0]
    for block in blocks:
        stream = np.concatenate([rest, block])
        started = time.process_time()
        packed = strategy.pack(stream, sequences)
        seconds += time.process_time() - started
        sequences += len(packed.lengths)
        stored += len(packed.tokens)
        rest = stream[packed.consumed :]
    return seconds, stored


if __name__ == "__main__":
    main()
