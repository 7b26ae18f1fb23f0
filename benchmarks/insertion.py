#!/usr/bin/env python
"""What inserting pauses costs, for every strategy, in nanoseconds of processor time for each real token.

    python benchmarks/insertion.py --work work

A stream of random ids in documents as long as C4's (log-normal, 427 tokens on average) is handed to a strategy in
blocks of about a million tokens, as preprocessing does with four megabytes of text.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
from arguments import new_parser, require
from cpu_time import Spread
from numpy.typing import NDArray
from sections import Section, load_now

from pause_megatron.pauses.insertion import (
    DocumentPauses,
    EveryTokenPauses,
    Gaps,
    NoPauses,
    SequencePauses,
    Strategy,
    pauses_per_sequence,
)

SEQ_LENGTH = 2048
PAUSE_RATE = 0.1
PAUSE_ID, EOD_ID, FIRST_TEXT_ID, VOCAB_SIZE = 2, 1, 3, 32_000
BLOCK_TOKENS = 1_000_000
TOKENS_PER_DOCUMENT = 427
_SIGMA = 1.0
"""Standard deviation of the logarithm of a document's length; C4's is about that."""
_SEED = 1234


def _sequence(trimmed: Literal["carry", "drop"] = "carry", gaps: Gaps = "repeat") -> Strategy:
    num_pauses = pauses_per_sequence(PAUSE_RATE, SEQ_LENGTH)
    return SequencePauses(SEQ_LENGTH, num_pauses, PAUSE_ID, seed=_SEED, shard=0, trimmed=trimmed, gaps=gaps)


def _document(gaps: Gaps = "repeat") -> Strategy:
    return DocumentPauses(PAUSE_RATE, PAUSE_ID, EOD_ID, seed=_SEED, shard=0, gaps=gaps)


STRATEGIES: dict[str, Strategy] = {
    "sequence": _sequence(),
    "sequence, --trimmed drop": _sequence(trimmed="drop"),
    "sequence, --gaps distinct": _sequence(gaps="distinct"),
    "document": _document(),
    "document, --gaps distinct": _document(gaps="distinct"),
    "every, 1 pause": EveryTokenPauses(SEQ_LENGTH, 1, PAUSE_ID),
    "every, 3 pauses": EveryTokenPauses(SEQ_LENGTH, 3, PAUSE_ID),
    "none": NoPauses(SEQ_LENGTH),
}


def main() -> None:
    """Measure, print the table and keep it in the work folder."""
    parser = new_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    parser.add_argument("--tokens", type=int, default=10_000_000, help="real tokens (default ten million)")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of every strategy (default 7)")
    arguments = parser.parse_args()
    require(arguments.tokens >= 10_000, f"--tokens {arguments.tokens}: must be at least 10000")
    require(arguments.repeats >= 1, f"--repeats {arguments.repeats}: must be at least 1")
    blocks = make_blocks(arguments.tokens)
    load = load_now()
    seconds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    stored: dict[str, int] = {}
    for repeat in range(arguments.repeats):
        print(f"repeat {repeat + 1} of {arguments.repeats}", file=sys.stderr, flush=True)
        for name, strategy in STRATEGIES.items():
            taken, stored[name] = pack_all(strategy, blocks)
            seconds[name].append(taken)
    tokens = sum(map(len, blocks))
    nanoseconds = {name: Spread.of([taken / tokens * 1e9 for taken in values]) for name, values in seconds.items()}
    section = Section(
        title="Pause insertion",
        text=f"{tokens / 1e6:.0f} million real tokens in blocks of {BLOCK_TOKENS / 1e6:g} million, sequences of "
        f"{SEQ_LENGTH}, pause rate {PAUSE_RATE}; {arguments.repeats} repeats. Nanoseconds of processor time: median "
        "(lowest-highest).",
        header=("strategy", "for each real token", "for each stored token"),
        rows=tuple(_row(name, spread, tokens / stored[name]) for name, spread in nanoseconds.items()),
        load=(load, load_now()),
        measurements={"tokens": tokens, "seconds": seconds, "stored": stored},
    )
    section.save(arguments.work, "4-insertion")


def _row(name: str, spread: Spread, real_share: float) -> tuple[str, ...]:
    return name, f"**{spread.median:.2f}** ({spread.low:.2f}-{spread.high:.2f})", f"{spread.median * real_share:.2f}"


def make_blocks(tokens: int) -> list[NDArray[np.integer]]:
    """About ``tokens`` real tokens of documents, each closed by the end-of-document token, in blocks."""
    random = np.random.default_rng(_SEED)
    mean = np.log(TOKENS_PER_DOCUMENT) - _SIGMA**2 / 2
    blocks: list[NDArray[np.integer]] = []
    while (left := tokens - sum(map(len, blocks))) > 0:
        size = min(left, BLOCK_TOKENS)
        lengths = np.maximum(1, random.lognormal(mean, _SIGMA, size // TOKENS_PER_DOCUMENT + 1)).astype(np.int64)
        block = random.integers(FIRST_TEXT_ID, VOCAB_SIZE, size=int(lengths.sum()) + len(lengths), dtype=np.uint16)
        block[np.cumsum(lengths + 1) - 1] = EOD_ID
        blocks.append(block)
    return blocks


def pack_all(strategy: Strategy, blocks: list[NDArray[np.integer]]) -> tuple[float, int]:
    """Processor seconds that packing all ``blocks`` takes, and the tokens that come out."""
    sequences = stored = 0
    seconds = 0.0
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
