"""The check refuses every mistake with its default length: short sequences see what long ones see."""

from __future__ import annotations

from pathlib import Path

import pytest

from pause_megatron.config.conversion import ComparisonConfig
from tests.conversion.mistake_table import seen
from tests.conversion.mistakes import mistakes_of
from tests.distributed import run_distributed

NO_LOGITS = {
    "embedding of a token": "embeddings",
    "embeddings of two tokens exchanged": "embeddings",
    "last position": "embeddings",
    "rotary scaled dynamically": "settings",
    "sliding window of 256 tokens": "settings",
}
"""Mistakes that short sequences need not show, and the other check that refuses them."""


def not_refused(family: str, folder: Path) -> tuple[int, list[str], list[str]]:
    """Number of mistakes, those that change no logit by more than the tolerance, and those without any refusal."""
    config = ComparisonConfig()
    (_, [difference], refusal), *mistakes = seen(family, [(config.proof_sequences, config.proof_length)], folder)
    assert difference <= 1e-5
    assert refusal == ""
    unseen = [(name, refusal) for name, [difference], refusal in mistakes if difference <= config.tolerance]
    return len(mistakes), [name for name, _ in unseen], [name for name, refusal in unseen if not refusal]


@pytest.mark.parametrize("family", ["gpt2", "llama, tied", "llama3", "qwen2", "qwen3"])
def test_every_mistake_is_refused(family: str, tmp_path: Path) -> None:
    [(number, without_logits, accepted)] = run_distributed(not_refused, 1, family, tmp_path)
    assert number == len(mistakes_of(family)) > 50
    assert accepted == []
    assert set(without_logits) <= set(NO_LOGITS)
