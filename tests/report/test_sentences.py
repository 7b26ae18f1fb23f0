"""The sentences of the summary and of the caveats, and the conditions that they appear under."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.report.caveats import caveats
from pause_megatron.report.collect import Collected, PretrainRun, read_run
from pause_megatron.report.document import summary
from pause_megatron.report.measurements import group_results

from .inputs import evaluation, results, variants, write_run


def sentences(*records: EvaluationRecord, runs: Iterable[PretrainRun] = ()) -> tuple[str, str]:
    """Summary and caveats of a report."""
    collected = Collected(evaluations=results(records), runs=tuple(runs))
    tasks = group_results(collected.evaluations)
    return "\n".join(summary(collected, tasks)), "\n".join(caveats(collected, tasks))


def both_runs(folder: Path, **paused: int) -> list[PretrainRun]:
    return [read_run(write_run(folder / "a")), read_run(write_run(folder / "b", paused=True, **paused))]  # type: ignore[arg-type]


def test_the_summary_begins_with_the_significant_differences() -> None:
    words, _ = sentences(*variants())
    assert words.startswith(
        "Of 6 differences from StdPT_StdFT, 1 is significant (95 %):"
        " PausePT_PauseFT on parity (+31.0 ± 2.8 points); the other 5 are not."
    )
    assert "StdPT_PauseFT: +3.0 ± 3.2 points, not significant." in words
    words, _ = sentences(evaluation(), evaluation(variant="stdpt_pauseft"), evaluation(variant="pausept_pauseft"))
    assert words.partition("\n")[0].endswith("(+31.0 ± 3.0 points); the other is not.")


def test_the_summary_states_that_no_difference_is_significant() -> None:
    words, _ = sentences(*variants(tasks=("gsm8k",)))
    assert words.startswith("None of the 3 differences from StdPT_StdFT is significant (95 %).")
    words, _ = sentences(evaluation(), evaluation(variant="stdpt_pauseft"))
    assert words.startswith("The only difference from StdPT_StdFT is not significant (95 %).")


def test_a_single_variant_is_not_compared() -> None:
    words, limits = sentences(evaluation(variant="pausept_pauseft"))
    assert "there are no differences to report" in words
    assert "There is no result of StdPT_StdFT to compare with." in words
    assert "StdPT_StdFT, StdPT_PauseFT and PausePT_StdFT were not measured" in limits


def test_the_baseline_of_a_sentence_has_the_prefix_attention_of_the_difference() -> None:
    words, limits = sentences(
        evaluation(value=0.5),
        evaluation(value=0.3, stderr=0.03, prefix_attention="causal"),
        evaluation(variant="pausept_pauseft", value=0.8, prefix_attention="causal"),
    )
    sentence = next(line for line in words.splitlines() if line.startswith("parity"))
    assert (
        "StdPT_StdFT, causal prefix reached 30.0 ± 3.0% on 500 test items with 1 finetuning seed."
        " PausePT_PauseFT: +50.0 ± 3.7 points, significantly higher."
    ) in sentence
    assert "StdPT_StdFT, bidirectional prefix reached 50.0 ± 2.1% on 500 test items" in sentence
    assert "parity has 500 test items (causal prefix): differences smaller than about 8.3 points" in limits
    assert "parity has 500 test items (bidirectional prefix): differences smaller than about 5.8 points" in limits


def test_the_summary_names_the_models_that_collapse_without_pauses() -> None:
    without = {
        variant: evaluation("parity", variant, value=value, num_pauses_inf=0)
        for variant, value in (("stdpt_pauseft", 0.54), ("pausept_pauseft", 0.5))
    }
    finetuned = [evaluation("parity", variant) for variant in without]
    words, _ = sentences(*finetuned, *without.values())
    assert (
        "Without pauses at inference, 1 of 2 models finetuned with pauses collapses: PausePT_PauseFT, M_ft 10 on parity"
        " (from 83.0 ± 2.1% to 50.0 ± 2.1%)."
    ) in words
    words, _ = sentences(finetuned[0], without["stdpt_pauseft"])
    assert "Without pauses at inference, the only model finetuned with pauses does not collapse." in words
    words, _ = sentences(*finetuned)
    assert "Without pauses" not in words


def test_different_numbers_of_seeds_are_a_caveat() -> None:
    records = [evaluation(seed=seed) for seed in (1, 2, 3)]
    _, limits = sentences(*records, evaluation(variant="pausept_pauseft"))
    assert "On parity, settings have different numbers of finetuning seeds (1 and 3)." in limits
    _, limits = sentences(*records)
    assert "settings have different" not in limits


def test_validation_losses_are_in_the_summary(tmp_path: Path) -> None:
    words, _ = sentences(runs=both_runs(tmp_path))
    assert "On held-out standard text (validation-standard), StdPT has loss 4.216 (perplexity 67.8)" in words
    assert "PausePT is a model of 1.86M parameters pretrained on 1.49M real tokens and 148k pauses." in words


def test_a_small_run_is_not_evidence_about_large_models(tmp_path: Path) -> None:
    _, limits = sentences(*variants(), runs=both_runs(tmp_path))
    assert "1.86M parameters and the longest run 1.64M tokens, 122k times fewer" in limits
    assert "one pretraining run of each kind" in limits
    assert "PausePT saw 9.1% fewer real tokens" in limits
    assert "parity is not among the paper's nine benchmarks" in limits
    assert "gsm8k has 500 test items: differences smaller than about 3.2 points cannot be detected" in limits
    assert "finetuned once" in limits
    assert "There are 6 differences" in limits


def test_caveats_that_do_not_apply_are_absent() -> None:
    records = [
        evaluation("squad", variant, seed=seed, value=value + seed / 1000)
        for seed in range(5)
        for variant, value in (("stdpt_stdft", 0.3), ("stdpt_pauseft", 0.4))
    ]
    _, limits = sentences(*records)
    for phrase in ("benchmarks", "finetun", "pretraining run of each", "chance level", "differences:"):
        assert phrase not in limits


def test_different_conditions_are_caveats(tmp_path: Path) -> None:
    records = evaluation(), evaluation(variant="pausept_stdft", num_samples=100)
    _, limits = sentences(*records, runs=both_runs(tmp_path, iterations=300))
    assert "differ in sequences seen (4,800 and 6,400)" in limits
    assert "On parity, results have different numbers of test items (100 and 500)" in limits


def test_scores_at_chance_level_and_standard_errors_of_zero_are_caveats() -> None:
    _, limits = sentences(evaluation(value=0.51), evaluation(variant="pausept_stdft", value=0.47))
    assert "no variant differs significantly from chance level" in limits
    _, limits = sentences(evaluation(value=0.0, stderr=0.0))
    assert "some standard error is 0" in limits
    assert "chance level" not in limits
