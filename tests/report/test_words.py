"""The summary and the caveats: what a report says in sentences, and when it keeps silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pause_megatron.report.caveats import caveats
from pause_megatron.report.collect import collect
from pause_megatron.report.compare import compare
from pause_megatron.report.records import Collected
from pause_megatron.report.summary import summary

from .inputs import evaluation, write_evaluation, write_run, write_variants


def said(collected: Collected) -> tuple[str, str]:
    tasks = compare(collected.evaluations)
    return "\n".join(summary(collected, tasks)), "\n".join(caveats(collected, tasks))


def said_of(folder: Path, *results: dict[str, Any]) -> tuple[str, str]:
    return said(collect([write_evaluation(folder, str(number), values) for number, values in enumerate(results)], []))


def test_the_summary_opens_with_the_differences_that_can_be_told_from_none(tmp_path: Path) -> None:
    words, _ = said(collect(write_variants(tmp_path), []))
    assert words.startswith(
        "Of 6 differences from StdPT_StdFT, 1 can be told from chance (95 %):"
        " PausePT_PauseFT on parity (+31.0 ± 2.8 points); the other 5 are not distinguishable."
    )
    assert "StdPT_PauseFT: +3.0 ± 3.2 points, not distinguishable." in words


def test_without_a_clear_difference_the_summary_says_so(tmp_path: Path) -> None:
    words, _ = said(collect(write_variants(tmp_path, tasks=("gsm8k",)), []))
    assert words.startswith("None of the 3 differences from StdPT_StdFT can be told from chance (95 %).")
    words, _ = said_of(tmp_path, evaluation(), evaluation(variant="stdpt_pauseft"))
    assert words.startswith("The one difference from StdPT_StdFT cannot be told from chance (95 %).")


def test_a_lone_variant_is_not_compared(tmp_path: Path) -> None:
    words, limits = said_of(tmp_path, evaluation(variant="pausept_pauseft"))
    assert "no difference to report" in words
    assert "There is no StdPT_StdFT beside them." in words
    assert "StdPT_StdFT, StdPT_PauseFT and PausePT_StdFT were not measured" in limits


def test_the_summary_names_who_collapses_without_pauses(tmp_path: Path) -> None:
    without = {
        variant: evaluation("parity", variant, value=value, num_pauses_inf=0)
        for variant, value in (("stdpt_pauseft", 0.54), ("pausept_pauseft", 0.5))
    }
    finetuned = [evaluation("parity", variant) for variant in without]
    words, _ = said_of(tmp_path, *finetuned, *without.values())
    assert (
        "Given no pause at inference, 1 of 2 models finetuned with pauses collapses: PausePT_PauseFT, M_ft 10 on parity"
        " (from 83.0 ± 2.1% to 50.0 ± 2.1%)."
    ) in words
    words, _ = said_of(tmp_path, finetuned[0], without["stdpt_pauseft"])
    assert "Given no pause at inference, the one model finetuned with pauses does not collapse." in words
    words, _ = said_of(tmp_path, *finetuned)
    assert "Given no pause" not in words


def test_unequal_numbers_of_seeds_are_named(tmp_path: Path) -> None:
    results = [evaluation(seed=seed) for seed in (1, 2, 3)]
    _, limits = said_of(tmp_path, *results, evaluation(variant="pausept_pauseft"))
    assert "On parity not every setting has results of the same number of finetuning seeds (1 and 3)." in limits
    _, limits = said_of(tmp_path, *results)
    assert "not every setting has" not in limits


def test_validation_losses_are_in_the_summary(tmp_path: Path) -> None:
    words, _ = said(collect([], [write_run(tmp_path / "a"), write_run(tmp_path / "b", paused=True)]))
    assert "On held-out standard text (validation-standard), StdPT has loss 4.216 (perplexity 67.8)" in words
    assert "PausePT is a model of 1.86M parameters pretrained on 1.49M real tokens and 148k pauses." in words


def test_a_small_run_is_called_no_evidence_about_large_models(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", paused=True)]
    _, limits = said(collect(write_variants(tmp_path / "evaluate"), runs))
    assert "1.86M parameters and the longest run 1.64M tokens, 122k times fewer" in limits
    assert "one pretraining run of each kind" in limits
    assert "PausePT saw 9.1% fewer real tokens" in limits
    assert "parity is not among the paper's nine benchmarks" in limits
    assert "gsm8k was measured on 500 test items: only a difference of about 3.2 points" in limits
    assert "finetuned once" in limits
    assert "There are 6 differences" in limits


def test_caveats_that_do_not_apply_stay_away(tmp_path: Path) -> None:
    results = [
        evaluation("squad", variant, seed=seed, value=value + seed / 1000, chance=None)
        for seed in range(5)
        for variant, value in (("stdpt_stdft", 0.3), ("stdpt_pauseft", 0.4))
    ]
    _, limits = said_of(tmp_path, *results)
    for phrase in ("benchmarks", "finetun", "pretraining run of each", "guessing", "differences:"):
        assert phrase not in limits.replace("not known to this report, as it was given no pretraining run", "")


def test_unequal_conditions_are_named(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", paused=True, iterations=300)]
    paths = [
        write_evaluation(tmp_path, "0", evaluation()),
        write_evaluation(tmp_path, "1", evaluation(variant="pausept_stdft", num_samples=100)),
    ]
    _, limits = said(collect(paths, runs))
    assert "differ in sequences seen (4,800 and 6,400)" in limits
    assert "same number of test items (100 and 500)" in limits


def test_scores_at_chance_and_empty_errors_are_named(tmp_path: Path) -> None:
    _, limits = said_of(tmp_path, evaluation(value=0.51), evaluation(variant="pausept_stdft", value=0.47))
    assert "no variant can be told from guessing" in limits
    _, limits = said_of(tmp_path, evaluation(value=0.0, stderr=0.0))
    assert "some standard error is 0" in limits
    assert "guessing" not in limits
