"""The check refuses every mistake with its default length: short sequences see what long ones see."""

from __future__ import annotations

from pathlib import Path

import pytest

from pause_megatron.config.conversion import ComparisonConfig
from tests.conversion.mistake_comparison import compare_with_mistakes
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


def not_in_logits(family: str, folder: Path) -> tuple[int, dict[str, str]]:
    """Number of mistakes, and those that change logits by less than the tolerance, with the check that refuses them."""
    config = ComparisonConfig()
    lengths = [(config.proof_sequences, config.proof_length)]
    (_, [difference], refusal), *mistakes = compare_with_mistakes(family, lengths, folder)
    assert difference <= 1e-5
    assert refusal == ""
    return len(mistakes), {name: refusal for name, [each], refusal in mistakes if each <= config.tolerance}


@pytest.mark.parametrize("family", ["gpt2", "llama, tied", "llama3", "qwen2", "qwen3"])
def test_every_mistake_is_refused(family: str, tmp_path: Path) -> None:
    [(number, unseen)] = run_distributed(not_in_logits, 1, family, tmp_path)
    assert number == len(mistakes_of(family)) > 50
    assert unseen.items() <= NO_LOGITS.items()
