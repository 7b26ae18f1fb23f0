"""The line for a person says how the run is doing."""

from __future__ import annotations

from typing import Any

import pytest

from pause_megatron.training.watching.progress import ProgressLines, duration

TRAIN: dict[str, Any] = {
    "kind": "train",
    "iteration": 120,
    "steps": 10,
    "skipped_steps": 0,
    "loss": 3.14159,
    "loss_after_real": 3.2,
    "loss_after_pause": 2.9,
    "grad_norm": 0.8123,
    "learning_rate": 3e-4,
    "tokens_per_second": 123456.7,
    "tflops_per_device": 412.34,
    "mfu": 0.4174,
    "memory_bytes": 61_234_567_890,
    "seconds_left": 3 * 86400 + 4 * 3600 + 59,
}
VALIDATION = {"kind": "validation", "iteration": 120, "dataset": "held-out", "loss": 3.5, "perplexity": 33.115}
RESUMED = {"kind": "resumed", "iteration": 120, "checkpoint": "run/x", "checkpoint_layout": "TP 2", "restarts": 3}


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            TRAIN,
            "loss 3.1416 (after real 3.2000, after pause 2.9000)  grad norm 0.812  lr 3.00e-04  123,457 tokens/s"
            "  412 TFLOP/s  MFU 41.7%  61.2 GB  3 d 04 h left",
        ),
        (
            {
                key: value
                for key, value in TRAIN.items()
                if key not in ("loss_after_pause", "grad_norm", "tflops_per_device", "mfu")
            }
            | {"loss_scale": 65536.0, "skipped_steps": 2, "memory_bytes": 850_000_000, "seconds_left": 61},
            "loss 3.1416  lr 3.00e-04  loss scale 65536  2 of 10 steps skipped  123,457 tokens/s  850 MB"
            "  1 min 01 s left",
        ),
        (VALIDATION, "validation on held-out: loss 3.5000  perplexity 33.12"),
        (RESUMED, "continuing from run/x, written by TP 2 (restart 3)"),
    ],
    ids=["pauses", "fp16", "validation", "resumed"],
)
def test_line_of_a_record(record: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines(4000).write(record)
    assert capsys.readouterr().err.split("] ", 1)[1] == f"iteration    120/4000  {line}\n"


def test_bad_batch_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines(4000).write({"kind": "bad_batch", "iteration": 5, "reason": "the loss is nan"})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3600, "1 h 00 min"), (90061, "1 d 01 h")]
)
def test_duration_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
