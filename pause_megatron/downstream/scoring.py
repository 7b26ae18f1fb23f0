"""Scores of answers by the rules of each benchmark, for the task definitions in ``tasks/``.

A definition names one of these functions as ``process_results``, for example :func:`squad`. It takes a document and
the harness's results for it, and returns the document's metrics.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Document = dict[str, Any]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

_AFTER_HASHES = RegexFilter(regex_pattern=r"#### (\-?[0-9\.\,]+)")
_LAST_NUMBER = RegexFilter(regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
_GSM8K_IGNORES = [",", "\\$", "(?s).*#### ", "\\.$"]
"""Filters of the harness's ``gsm8k`` task, version 0.4.13."""


def normalize_answer(text: str) -> str:
    """Lower-case ``text``, without punctuation and articles: the rule of SQuAD, CoQA and open-domain QA."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad_exact_match(prediction: str, answer: str) -> float:
    """Return SQuAD v1.1's official exact match with one answer."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def squad_f1(prediction: str, answer: str) -> float:
    """Return SQuAD v1.1's official F1 with one answer, over bags of words; 0 without a common word."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(answer).split()
    common = sum((Counter(predicted) & Counter(expected)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def coqa_f1(prediction: str, answer: str) -> float:
    """Return CoQA's official F1 with one answer: that of SQuAD, but two texts without words are equal."""
    if not normalize_answer(prediction) or not normalize_answer(answer):
        return squad_exact_match(prediction, answer)
    return squad_f1(prediction, answer)


def squad(document: Document, results: list[str]) -> dict[str, float]:
    """Return the scores with the best reference answer."""
    return _best(results[0], document["answers"]["text"])


def coqa(document: Document, results: list[str]) -> dict[str, float]:
    """Return CoQA's official scores of a turn: the mean, over each reference answer left out, of the best other one."""
    answers = document["answers"]
    rounds = [answers[:i] + answers[i + 1 :] for i in range(len(answers))] if len(answers) > 1 else [answers]
    return {
        "f1": fmean(max(coqa_f1(results[0], answer) for answer in each) for each in rounds),
        "em": fmean(max(squad_exact_match(results[0], answer) for answer in each) for each in rounds),
    }


def gsm8k(document: Document, results: list[str]) -> dict[str, float]:
    """Score the number after ``####``, the last number, and Rouge-1 of the complete solution."""
    answer = document["answer"]
    return {
        "accuracy": _same_number(_AFTER_HASHES, results[0], answer),
        "last_number": _same_number(_LAST_NUMBER, results[0], answer),
        "rouge1": _rouge1().score(answer, results[0])["rouge1"].fmeasure,
    }


def _same_number(number: RegexFilter, output: str, answer: str) -> float:
    [[found]] = number.apply([[output]], [{}])
    match = exact_match_hf_evaluate(
        predictions=[found], references=[answer], regexes_to_ignore=_GSM8K_IGNORES, ignore_case=True
    )
    return float(match["exact_match"])


@cache
def _rouge1() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds to import, and only GSM8K needs it

    return RougeScorer(["rouge1"])


def any_answer(document: Document, results: list[str]) -> dict[str, float]:
    """Return exact match with any accepted answer, and the best F1, both normalised as in SQuAD."""
    return _best(results[0], document["answers" if "answers" in document else "answer"])


def _best(prediction: str, answers: list[str]) -> dict[str, float]:
    return {
        "em": max(squad_exact_match(prediction, answer) for answer in answers),
        "f1": max(squad_f1(prediction, answer) for answer in answers),
    }


def decoded_choice(document: Document, results: list[str]) -> dict[str, float]:
    """Return exact match with the text of the correct choice, normalised as in SQuAD."""
    correct = document["choices"]["text"][document["choices"]["label"].index(document["answerKey"])]
    return {"em": squad_exact_match(results[0], correct)}


def last_word(document: Document, results: list[tuple[float, bool]]) -> dict[str, float]:
    """Return whether greedy decoding gives the last word, and its log-probability for the perplexity."""
    log_probability, is_greedy = results[0]
    return {"em": float(is_greedy), "perplexity": log_probability}
