#!/usr/bin/env python
"""Report of 2,000 results: time, memory, and size of the page.

    python benchmarks/report.py --work work

The results are made up: ten tasks, two pretrained models, four M_ft, five M_inf and five seeds, each with all of its
test items. ``pause-megatron report`` must take less than a minute and 1 GB, and the page less than 10 MB.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from measure import CommandError, load_now, new_parser, require_at_least, run_measured, save_table

from pause_megatron.records.evaluation import EvaluationRecord

sys.path.append(str(Path(__file__).parents[1]))  # for the made-up results of the tests
from tests.report.inputs import evaluation, with_scores, write_evaluations

TASKS = (
    "commonsense_qa",
    "coqa",
    "gsm8k",
    "hellaswag",
    "lambada",
    "nq_open",
    "parity",
    "piqa",
    "squad",
    "web_questions",
)
PRETRAINED = ("stdpt", "pausept")
NUM_PAUSES_FT = (0, 10, 20, 50)
NUM_PAUSES_INF = (0, 5, 10, 20, 50)
CONTEXT = "The context of a question has about a hundred words, as in SQuAD. " * 9


def records(tasks: int, seeds: int, items: int) -> Iterator[EvaluationRecord]:
    """Results with ``items`` test items each; the numbers mean nothing."""
    for task, pretrained, most, inference in product(TASKS[:tasks], PRETRAINED, NUM_PAUSES_FT, NUM_PAUSES_INF):
        for seed in range(1, seeds + 1):
            generator = random.Random(f"{task} {pretrained} {most} {inference} {seed}")
            variant = f"{pretrained}_{'pauseft' if most else 'stdft'}"
            scores = [float(generator.random() < 0.6) for _ in range(items)]
            record = evaluation(task, variant, num_pauses_ft=most, num_pauses_inf=inference, seed=seed)
            record = with_scores(record, scores)
            samples = tuple(replace(sample, prompt=f"{CONTEXT}{sample.prompt}") for sample in record.samples)
            yield replace(record, samples=samples)


def main() -> None:
    """Measure and print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 5], help="seeds of each setting (1 5: 400, 2,000)")
    parser.add_argument("--tasks", type=int, default=len(TASKS), help="tasks (default and most: 10)")
    parser.add_argument("--items", type=int, default=100, help="test items of each result (default: 100)")
    arguments = parser.parse_args()
    require_at_least(1, arguments, "tasks", "items")
    load, rows, found = load_now(), [], []
    for seeds in arguments.seeds:
        folder = arguments.work / "report"
        shutil.rmtree(folder, ignore_errors=True)
        results = len(write_evaluations(folder / "evaluate", records(arguments.tasks, seeds, arguments.items)))
        words = ["report", "--evaluations", folder / "evaluate", "--output", folder / "report"]
        try:
            cost = run_measured([sys.executable, "-m", "pause_megatron", *words], folder / "log")
        except CommandError as error:
            raise SystemExit(str(error)) from None
        sizes = [(folder / "report" / f"report.{suffix}").stat().st_size for suffix in ("html", "md", "json")]
        found.append({"results": results, **vars(cost), "sizes": sizes})
        seconds = f"{cost.wall_seconds:.1f}", f"{cost.cpu_seconds:.1f}"
        rows.append(
            [f"{results:,}", *seconds, f"{cost.peak_bytes / 1e6:.0f}", *(f"{size / 1e6:.1f}" for size in sizes)]
        )
        shutil.rmtree(folder)
    save_table(
        arguments.work,
        "report",
        title="Report of 2,000 results",
        text=f"{arguments.tasks} tasks, {arguments.items} test items in each result, with prompts of 600 characters. "
        "One run of `pause-megatron report` each.",
        header=["results", "wall, s", "processor, s", "peak memory, MB", "HTML, MB", "Markdown, MB", "JSON, MB"],
        rows=rows,
        load=load,
        measurements=found,
    )


if __name__ == "__main__":
    main()
