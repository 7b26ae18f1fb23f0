"""The sentences of the summary and of the caveats, and the conditions that they appear under."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.report.caveats import caveats
from pause_megatron.report.collect import Collected, PretrainRun, read_run
from pause_megatron.report.document import details
from pause_megatron.report.grouping import group_results
from pause_megatron.report.verdicts import judge

from .inputs import PAPER_1B, evaluation, pretraining, results, variants, write_run
from .situations import study


def sentences(*records: EvaluationRecord, runs: Iterable[PretrainRun] = ()) -> tuple[str, str]:
    """Details and caveats of a report."""
    collected = Collected(evaluations=results(records), runs=tuple(runs))
    verdicts = judge(group_results(collected.evaluations))
    return "\n".join(details(collected, verdicts)), "\n".join(caveats(collected, verdicts))


def both_runs(folder: Path, **paused: int) -> list[PretrainRun]:
    return [read_run(write_run(folder / "a")), read_run(write_run(folder / "b", paused=True, **paused))]  # type: ignore[arg-type]


def test_each_variant_has_its_difference_and_its_verdict() -> None:
    words, _ = sentences(*variants())
    assert words.startswith("Compared on 2 tasks (gsm8k and parity): StdPT_StdFT, StdPT_PauseFT, PausePT_StdFT and")
    assert (
        "parity (exact_match): StdPT_StdFT scores 52.0% (47.6 to 56.3) on 500 test items with 1 seed. StdPT_PauseFT:"
        " +3.0 points, cannot be judged."
    ) in words
    words, _ = sentences(*study({"stdpt_stdft": 0.4, "pausept_pauseft": 0.6}))
    assert words.endswith("500 test items with 3 seeds. PausePT_PauseFT: +20.0 points, helps.")


def test_a_single_variant_is_not_compared() -> None:
    words, limits = sentences(evaluation(variant="pausept_pauseft"))
    assert "StdPT_StdFT was not measured." in words
    assert "StdPT_StdFT, StdPT_PauseFT and PausePT_StdFT were not measured" in limits


def test_the_baseline_of_a_sentence_has_the_prefix_attention_of_the_difference() -> None:
    words, _ = sentences(
        evaluation(value=0.5),
        evaluation(value=0.3, stderr=0.03, prefix_attention="causal"),
        evaluation(variant="pausept_pauseft", value=0.8, prefix_attention="causal"),
    )
    sentence = next(line for line in words.splitlines() if line.startswith("parity"))
    assert "StdPT_StdFT, causal prefix scores 30.0% (24.5 to 36.2) on 500 test items with 1 seed." in sentence
    assert "StdPT_StdFT, bidirectional prefix scores 50.0% (45.6 to 54.4) on 500 test items" in sentence
    assert sentence.endswith("with 1 seed. PausePT_PauseFT: +50.0 points, cannot be judged.")


def test_different_numbers_of_seeds_are_a_caveat() -> None:
    records = [evaluation(seed=seed) for seed in (1, 2, 3)]
    _, limits = sentences(*records, evaluation(variant="pausept_pauseft"))
    assert "On parity, settings have different numbers of finetuning seeds (1 and 3)." in limits
    _, limits = sentences(*records)
    assert "settings have different" not in limits


def test_validation_losses_are_in_the_summary(tmp_path: Path) -> None:
    words, _ = sentences(runs=(runs := both_runs(tmp_path)))
    loss = runs[0].last_validation("validation-standard").loss
    assert f"On held-out standard text (validation-standard), StdPT has loss {loss:.3f} (perplexity" in words
    assert "PausePT is a model of 1.86M parameters pretrained on 1.49M real tokens and 148k pauses." in words


def test_a_small_run_is_not_evidence_about_large_models(tmp_path: Path) -> None:
    _, limits = sentences(*variants(), runs=both_runs(tmp_path))
    assert "1.86M parameters and the longest pretraining 1.64M tokens, 122k times fewer" in limits
    assert "The pretrained models have one pretraining run each" in limits
    assert "PausePT saw 9.1% fewer real tokens" in limits
    assert "parity is not among the paper's nine benchmarks" in limits
    assert "finetuned once" in limits


def test_the_size_of_models_is_known_from_their_results() -> None:
    """The paper's larger model, without a pretraining run in the report."""
    large = replace(pretraining(paused=False), real_tokens=200_000_000_000)
    _, limits = sentences(evaluation("squad", architecture=PAPER_1B, pretraining=large))
    assert "published effect" not in limits
    _, limits = sentences(evaluation("squad", architecture=PAPER_1B))
    assert "The largest model here has 1.35B parameters and the longest pretraining 1.64M tokens, 122k times" in limits
    _, limits = sentences(evaluation("squad", architecture=PAPER_1B, pretraining=None))
    assert "has 1.35B parameters; this report does not know how many tokens it was pretrained on" in limits
    _, limits = sentences(evaluation("squad", pretraining=large))
    assert "has 1.86M parameters and the longest pretraining 200B tokens. Neither" in limits


def test_drawn_rates_of_pretraining_are_a_caveat(tmp_path: Path) -> None:
    drawn = replace(pretraining(paused=True), rates="drawn")
    words = "pausept was pretrained with a rate of pauses drawn for each sequence or document; the paper has one rate."
    assert words in sentences(evaluation(variant="pausept_stdft", pretraining=drawn))[1]
    [run] = both_runs(tmp_path)[1:]
    drawn_run = replace(
        run, record=replace(run.record, model_name="other", dataset=replace(run.record.dataset, rates="drawn"))
    )
    assert "other was pretrained with a rate of pauses drawn" in sentences(runs=[drawn_run])[1]
    assert "drawn" not in sentences(evaluation(variant="pausept_stdft"), runs=[run])[1]


def test_repeated_tokens_in_place_of_pauses_are_a_caveat() -> None:
    repeat = replace(pretraining(paused=True), model_name="repeat1", pause_inputs="repeat")
    words = "repeat1 was pretrained with repeated tokens in place of pauses"
    assert words in sentences(evaluation(variant="pausept_stdft", pretraining=repeat))[1]
    assert "repeated tokens" not in sentences(evaluation(variant="pausept_stdft"))[1]


def test_the_number_of_tests_is_a_caveat() -> None:
    records = study({"stdpt_stdft": 0.4, "stdpt_pauseft": 0.4, "pausept_pauseft": 0.4})
    _, limits = sentences(*records)
    assert "Verdicts are corrected for 2 comparisons (Holm)" in limits
    _, limits = sentences(*study({"stdpt_stdft": 0.4, "pausept_pauseft": 0.4}))
    assert "corrected" not in limits


def test_caveats_that_do_not_apply_are_absent() -> None:
    records = [
        evaluation("squad", variant, seed=seed, value=value + seed / 1000)
        for seed in range(5)
        for variant, value in (("stdpt_stdft", 0.3), ("stdpt_pauseft", 0.4))
    ]
    _, limits = sentences(*records)
    for phrase in ("benchmarks", "finetun", "pretraining run of each", "guessing", "corrected"):
        assert phrase not in limits


def test_hints_are_a_caveat() -> None:
    _, limits = sentences(evaluation(), evaluation(variant="stdpt_pauseft", hint_weight=0.5))
    assert "labels at their pauses (hints)" in limits
    _, limits = sentences(evaluation(), evaluation(variant="stdpt_pauseft"))
    assert "hints" not in limits


def test_different_conditions_are_caveats(tmp_path: Path) -> None:
    records = evaluation(), evaluation(variant="pausept_stdft", num_samples=100)
    _, limits = sentences(*records, runs=both_runs(tmp_path, iterations=300))
    assert "differ in sequences seen (4,800 and 6,400)" in limits
    assert "On parity, results have different numbers of test items (100 and 500)" in limits


def test_scores_that_are_not_above_guessing_are_a_caveat() -> None:
    _, limits = sentences(evaluation(value=0.51), evaluation(variant="pausept_stdft", value=0.47))
    assert "On parity, no model is shown to score above guessing" in limits
    assert "below guessing" not in limits
    _, limits = sentences(evaluation(value=0.0, stderr=0.0))
    assert "On parity, no model is shown to score above guessing" in limits
    assert "some scores are below guessing" in limits
    _, limits = sentences(evaluation(value=0.6), evaluation(variant="pausept_stdft", value=0.47))
    assert "guessing" not in limits
