"""Progress lines: the most important numbers of each record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pause_megatron.records.pretraining import (
    BadBatchRecord,
    MetricsRecord,
    ResumedRecord,
    TrainRecord,
    ValidationRecord,
)
from pause_megatron.training.metrics.progress_lines import ProgressLines
from tests.records.examples import example

TRAIN = replace(
    example(TrainRecord),
    iteration=120,
    steps=10,
    skipped_steps=0,
    loss=3.14159,
    loss_after_real=3.2,
    loss_after_pause=2.9,
    grad_norm=0.8123,
    loss_scale=None,
    learning_rate=3e-4,
    tokens_per_second=123456.7,
    tflops_per_device=412.34,
    mfu=0.4174,
    memory_bytes=61_234_567_890,
    seconds_left=3 * 86400 + 4 * 3600 + 59,
)
FP16_WITHOUT_PAUSES = replace(
    TRAIN,
    loss_after_pause=None,
    grad_norm=None,
    mfu=None,
    loss_scale=65536.0,
    skipped_steps=2,
    memory_bytes=850_000_000,
    seconds_left=61,
)
VALIDATION = ValidationRecord(
    iteration=120, dataset="held-out", pauses="none", loss=3.5, perplexity=33.115, real_tokens=9
)
RESUMED = ResumedRecord(iteration=120, checkpoint="run/x", checkpoint_layout="TP 2", layout="TP 1", restarts=3)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            TRAIN,
            "loss 3.1416 (after real 3.2000, after pause 2.9000)  grad norm 0.812  lr 3.00e-04  123,457 tokens/s"
            "  412 TFLOP/s  MFU 41.7%  61.2 GB  3 d 04 h left",
        ),
        (
            FP16_WITHOUT_PAUSES,
            "loss 3.1416  lr 3.00e-04  loss scale 65536  2 of 10 steps skipped  123,457 tokens/s  412 TFLOP/s  850 MB"
            "  1 min 01 s left",
        ),
        (VALIDATION, "validation on held-out: loss 3.5000  perplexity 33.12"),
        (RESUMED, "resuming from run/x, written by TP 2 (restart 3)"),
    ],
    ids=["pauses", "fp16", "validation", "resumed"],
)
def test_line_of_a_record(record: MetricsRecord, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines(4000).write(record)
    assert capsys.readouterr().err.split("] ", 1)[1] == f"iteration    120/4000  {line}\n"


def test_bad_batch_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines(4000).write(BadBatchRecord(iteration=5, reason="the loss is nan", documents=()))
    assert capsys.readouterr().err == ""
