#!/usr/bin/env python
"""Preprocessing in a datatrove pipeline against ``pause-megatron preprocess --workers``, in processor time.

    python benchmarks/engines.py --input 'c4/*.json.gz' --copies 40 --work work

Both write the same shards from the same gzipped files, one task for each file, on --workers processes; the files are
compared. A third candidate only reads the files with datatrove's JsonlReader. It shows which part of the difference is
datatrove's reader, which parses line by line and makes an object of each document.

The figures are marginal: the difference between the complete text and the first part of every shard (--small-share).
So start-up, which a column shows, is in no ratio.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
from measure import CommandError, Cost, Spread
from prepare import Text, find_shards, get_text
from vocabularies import KINDS, Vocabulary, get_vocabulary

WORKERS, DATATROVE, READER = "workers", "datatrove", "reader"
_OUR_TOOL = Path(__file__).parents[1] / "tools" / "preprocess_c4.py"
_ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_Runs = dict[str, list[tuple[Cost, Cost]]]
"""Candidate to its costs on the part and on the complete text, one pair for each repeat."""


def run_pipeline(texts: Path, work: Path, tokenizer: Path | None, workers: int) -> None:
    """Run a pipeline with one task for each file of ``texts``; without a tokenizer, only read."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader

    from pause_megatron.preprocess.datatrove_step import PauseDatasetWriter

    steps = [JsonlReader(str(texts)), *([PauseDatasetWriter(work / "data", tokenizer)] if tokenizer else [])]
    tasks = len(list(texts.iterdir()))
    LocalPipelineExecutor(steps, tasks=tasks, workers=workers, logging_dir=str(work / "logs")).run()


class Candidates:
    """The measured commands; each runs on a text and returns its cost."""

    def __init__(self, work: Path, vocabulary: Vocabulary, workers: int) -> None:
        self._work, self._vocabulary, self._workers = work / "engines", vocabulary, workers

    def workers(self, text: Text) -> Cost:
        """The command of this project."""
        flags = ["--tokenizer", self._vocabulary.ours, "--output", self._folder(WORKERS) / "data"]
        return self._run([_OUR_TOOL, "--input", *text.shards, *flags, "--workers", self._workers])

    def datatrove(self, text: Text) -> Cost:
        """The pipeline with this project's step."""
        return self._run(
            [__file__, "pipeline", text.shards[0].parent, self._folder(DATATROVE), self._workers, self._vocabulary.ours]
        )

    def reader(self, text: Text) -> Cost:
        """The pipeline without it."""
        return self._run([__file__, "pipeline", text.shards[0].parent, self._folder(READER), self._workers])

    def require_equal_datasets(self) -> None:
        """End the program if the two datasets of the last runs differ."""
        ours, theirs = (sorted((self._work / name / "data").glob("*.bin")) for name in (WORKERS, DATATROVE))
        pairs = list(zip(ours, theirs, strict=True))
        for suffix in (".bin", ".idx"):
            for pair in pairs:
                one, other = (path.with_suffix(suffix).read_bytes() for path in pair)
                measure.require(bool(one) and one == other, f"{pair[0].name} and {pair[1].name}: {suffix} differs")

    def _folder(self, name: str) -> Path:
        shutil.rmtree(self._work / name, ignore_errors=True)
        return self._work / name

    def _run(self, words: list[object]) -> Cost:
        return measure.run_measured([sys.executable, *words], self._work / "log", _ONE_THREAD)


def main() -> None:
    """Measure and print the table."""
    arguments = _parse()
    shards = find_shards(arguments.input)
    texts = tuple(get_text(shards, share, arguments.copies, arguments.work) for share in (arguments.small_share, 1))
    load, rows, found = measure.load_now(), [], {}
    try:
        for kind in arguments.kinds:
            vocabulary = get_vocabulary(kind, arguments.work / "vocabularies", shards, arguments.vocabulary_size)
            runs = _measure(Candidates(arguments.work, vocabulary, arguments.workers), texts, arguments.repeats)
            rows.append(_row(kind, runs, arguments.small_share))
            found[kind] = {name: [list(map(vars, pair)) for pair in pairs] for name, pairs in runs.items()}
    except CommandError as error:
        raise SystemExit(str(error)) from None
    megabytes = [text.json_bytes / 1e6 for text in texts]
    measure.save_table(
        arguments.work,
        "engines",
        title="Preprocessing in a datatrove pipeline",
        text=f"{megabytes[1]:.1f} MB of JSON ({megabytes[0]:.1f} MB in the part) in {len(shards)} shards, "
        f"{arguments.copies} copies, {arguments.repeats} repeats, {arguments.workers} processes; the datasets are "
        "equal. Processor seconds for the rest of the text: median (lowest-highest). Ratios are to --workers, repeat "
        "by repeat; the last one is without the time of the reader alone.",
        header=["tokenizer", "--workers", "datatrove", "ratio", "reader alone", "ratio of the step", "start-up, CPU s"],
        rows=rows,
        load=load,
        measurements=found,
    )


def _measure(candidates: Candidates, texts: tuple[Text, ...], repeats: int) -> _Runs:
    commands: dict[str, Callable[[Text], Cost]] = {
        WORKERS: candidates.workers,
        DATATROVE: candidates.datatrove,
        READER: candidates.reader,
    }
    runs: _Runs = {name: [] for name in commands}
    for repeat in range(repeats):
        for name in measure.in_turn(commands, repeat):
            part, complete = (commands[name](text) for text in texts)
            runs[name].append((part, complete))
            print(f"{name} {repeat + 1}: {complete}", file=sys.stderr, flush=True)
        candidates.require_equal_datasets()
    return runs


def _row(kind: str, runs: _Runs, share: float) -> list[str]:
    more = {name: [all_.cpu_seconds - part.cpu_seconds for part, all_ in pairs] for name, pairs in runs.items()}
    step = [whole - reader for whole, reader in zip(more[DATATROVE], more[READER], strict=True)]
    return [
        kind,
        Spread.of(more[WORKERS]).show(),
        Spread.of(more[DATATROVE]).show(),
        Spread.ratio(more[DATATROVE], more[WORKERS]).show(bold=True),
        Spread.of(more[READER]).show(),
        Spread.ratio(step, more[WORKERS]).show(bold=True),
        " / ".join(f"{Spread.of(_start_up(runs[name], share)).median:.1f}" for name in (WORKERS, DATATROVE)),
    ]


def _start_up(pairs: list[tuple[Cost, Cost]], share: float) -> list[float]:
    """Processor seconds for a text without documents, of every repeat; ``share`` of the text is in the part."""
    return [part.cpu_seconds - share / (1 - share) * (all_.cpu_seconds - part.cpu_seconds) for part, all_ in pairs]


def _parse() -> Any:
    parser = measure.new_parser(__doc__, repeats=3)
    parser.add_argument("--input", nargs="+", required=True, help="C4 shards (.json.gz), as paths or quoted globs")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="tokenizers (default: all)")
    parser.add_argument("--vocabulary-size", type=int, default=32_000, help="tokens of each tokenizer (32000)")
    parser.add_argument("--workers", type=int, default=measure.available_cores(), help="processes (default: all cores)")
    parser.add_argument("--small-share", type=float, default=0.25, help="part of the text to run first (0.25)")
    parser.add_argument("--copies", type=int, default=1, help="copies of the text in each shard (1)")
    arguments = parser.parse_args()
    measure.require_at_least(1, arguments, "repeats", "workers", "copies")
    measure.require_at_least(1000, arguments, "vocabulary_size")
    measure.require(0 < arguments.small_share < 1, f"--small-share {arguments.small_share}: must be between 0 and 1")
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pipeline", texts, work, workers, *tokenizer]:
            run_pipeline(Path(texts), Path(work), Path(tokenizer[0]) if tokenizer else None, int(workers))
        case _:
            main()
