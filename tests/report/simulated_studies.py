"""Simulated studies: how often whole pages claim a difference of equal variants, and find a real one.

``python -m tests.report.simulated_studies --studies 1000`` simulates studies of equal variants with few or many test
items, seeds and tasks, and shares of right answers from 2 to 98 %, and prints the share of pages with a claim. Then it
compares the rate at which a real difference is found with that of Student's t by theory. Each study goes through the
report's own code, from results to the lead sentence.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from pause_megatron.records.evaluation import EvaluationRecord, Metric
from pause_megatron.records.variants import VARIANTS
from pause_megatron.report.grouping import group_results
from pause_megatron.report.verdict_words import lead, removal_sentences
from pause_megatron.report.verdicts import Outcome, judge
from tests.report.inputs import evaluation, results

ITEMS = (8, 20, 50, 200)
SEEDS = (2, 3, 5)
SHARES = (0.02, 0.1, 0.35, 0.5, 0.65, 0.9, 0.98)
TASKS = (1, 3, 6)
SCATTERS = (0.0, 0.3, 1.0)
"""Standard deviations of difficulty over items, of seeds, and of single variants on single items, as log-odds."""

POWER = ((3, 0.06, 0.1), (3, 0.06, 0.2), (5, 0.06, 0.05), (5, 0.06, 0.1), (5, 0.06, 0.15))
"""Seeds, their scatter and the real difference of studies that measure power."""

Runs = npt.NDArray[np.float64]


def simulate_equal(generator: np.random.Generator, *, scattered: bool) -> tuple[list[EvaluationRecord], str]:
    """Draw a study whose variants are equal, with and without pauses at inference; return it with its description.

    If ``scattered``, seeds cause nearly all of the error, which is the hardest case for the test.
    """
    items, seeds, tasks = (int(generator.choice(choices)) for choices in (ITEMS, SEEDS, TASKS))
    of_items, of_seeds, of_both = (float(generator.choice(SCATTERS)) for _ in range(3))
    if scattered:
        items, of_seeds, of_both = max(ITEMS), max(SCATTERS), 0.0
    graded = bool(generator.random() < 0.25)  # F1 instead of right or wrong
    records = []
    for number in range(tasks):
        share = float(generator.choice(SHARES[2:5] if scattered else SHARES))
        base = math.log(share / (1 - share)) + generator.normal(0, of_items, items)
        for variant in VARIANTS:
            own = generator.normal(0, of_both, items)
            for seed in range(seeds):
                odds = base + own + generator.normal(0, of_seeds)
                for pauses in (10, 0) if variant.endswith("pauseft") else (0,):
                    scores = draw(odds, generator, graded)
                    records.append(result(f"task {number}", variant, seed, scores, pauses))
    return records, f"{items} items, {seeds} seeds, {tasks} tasks"


def draw(log_odds: Runs, generator: np.random.Generator, graded: bool = False) -> Runs:
    """Draw a score for each item: right or wrong, or between 0 and 1."""
    share = 1 / (1 + np.exp(-log_odds))
    scores: Runs = (generator.random(len(share)) < share).astype(float)
    return scores * np.round(generator.random(len(share)), 2) if graded else scores


def result(task: str, variant: str, seed: int, scores: Runs, pauses: int) -> EvaluationRecord:
    """A result with one answer for each score."""
    record = evaluation(task, variant, seed=seed, value=0.5, num_pauses_inf=pauses)
    first = record.samples[0]
    samples = tuple(
        replace(first, prompt=f"Question {item}?", target=f"answer {item}", output=f"{score} {item}", correct=score)
        for item, score in enumerate(scores.tolist())
    )
    stderr = float(scores.std(ddof=1) / math.sqrt(len(scores)))
    metric = Metric(value=float(scores.mean()), stderr=stderr)
    return replace(record, samples=samples, num_samples=len(samples), metrics={record.primary_metric: metric})


def claims(records: list[EvaluationRecord]) -> bool:
    """Whether the page of a study claims any difference; its sentences and its verdicts must agree on that."""
    verdicts = judge(group_results(results(records)))
    text = " ".join([lead(verdicts), *removal_sentences(verdicts)])
    found = any(verdict.outcome in (Outcome.HELPS, Outcome.HURTS, Outcome.MIXED) for verdict in verdicts.tasks)
    collapsed = any(one.collapses for one in verdicts.removals)
    assert found == any(words in text for words in ("Pausing helps", "Pausing hurts", "pausing helps or hurts")), text
    assert collapsed == ("these models collapse:" in text), text
    return found or collapsed


def false_claims(studies: int, seed: int, *, scattered: bool) -> dict[str, list[bool]]:
    """Simulate studies of equal variants; return whether each one's page claims a difference, by their sizes."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[bool]] = {}
    for _ in range(studies):
        records, description = simulate_equal(generator, scattered=scattered)
        found.setdefault(description, []).append(claims(records))
    return found


def largest_plausible(studies: int, rate: float = 0.05) -> int:
    """Number of studies that a true rate of ``rate`` exceeds with a probability of at most 0.001."""
    return int(stats.binom.ppf(0.999, studies, rate))


def found_differences(studies: int, seed: int, effect: float, *, seeds: int, scatter: float, items: int = 1000) -> int:
    """Number of studies of two variants, ``effect`` apart, in which the page claims that pausing helps.

    The score of a seed is 0.4 or 0.4 + ``effect`` with normal scatter. All runs are right on the same items as far as
    possible, so that seeds cause nearly all of the error.
    """
    generator = np.random.default_rng(seed)
    count = 0
    for _ in range(studies):
        order = generator.permutation(items)
        records = []
        for variant, mean, pauses in (("stdpt_stdft", 0.4, 0), ("pausept_pauseft", 0.4 + effect, 10)):
            for number in range(seeds):
                right = items * float(np.clip(generator.normal(mean, scatter), 0, 1))
                records.append(result("squad", variant, number, (order < round(right)).astype(float), pauses))
        count += judge(group_results(results(records))).tasks[0].outcome is Outcome.HELPS
    return count


def theoretical_power(effect: float, *, seeds: int, scatter: float, draws: int = 20_000) -> float:
    """Power of Welch's t test at the 5 % level for two groups of ``seeds`` normal scores, with scipy's own test."""
    scores = np.random.default_rng(0).normal(0, scatter, (2, seeds, draws))
    found = stats.ttest_ind(scores[1] + effect, scores[0], equal_var=False)
    return float(np.mean((found.pvalue < 0.05) & (found.statistic > 0)))


def main() -> None:
    """Run the simulations and print their rates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=1000, help="studies of equal variants (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation (default: 1)")
    flags = parser.parse_args()
    for scattered, words in ((False, "equal variants"), (True, "equal variants with scattered seeds")):
        found = false_claims(flags.studies, flags.seed, scattered=scattered)
        total = sum(map(sum, found.values()))
        print(f"{words}: {total} of {flags.studies} pages claim a difference ({total / flags.studies:.1%})", flush=True)
        for description in sorted(found):
            print(f"  {description}: {sum(found[description])} of {len(found[description])}")
    for seeds, scatter, effect in POWER:
        studies = max(1, flags.studies // 5)
        count = found_differences(studies, flags.seed, effect, seeds=seeds, scatter=scatter)
        power = theoretical_power(effect, seeds=seeds, scatter=scatter)
        print(f"{seeds} seeds, {100 * effect:.0f} points: found in {count / studies:.1%}, by theory {power:.1%}")


if __name__ == "__main__":
    main()
