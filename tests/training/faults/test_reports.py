"""A bad batch is described in one line, and listed whole."""

from __future__ import annotations

from pathlib import Path

from pause_megatron.data.provenance import Documents, Origin
from pause_megatron.log import read_json_lines
from pause_megatron.training.faults.bad_batches import Verdict
from pause_megatron.training.faults.reports import (
    BAD_BATCHES_FILE,
    bad_batch_error,
    describe_bad_batch,
    write_bad_batch,
)


def batch_of(samples: int) -> list[Origin]:
    return [
        (
            Documents(
                input="c4/c4-train.00012.json.gz",
                first=1043 + i,
                last=1051 + i,
                left_out=0,
                at_least=False,
                folder="data/pause",
                sequence=77 + i,
            ),
        )
        for i in range(samples)
    ]


def test_line_names_the_first_documents_and_where_all_are() -> None:
    line = describe_bad_batch(Path("run"), 12, Verdict("the loss is nan", ends_the_run=True), batch_of(8))
    assert line == (
        "iteration 12: the loss is nan; no weight was changed by this batch, which was made of"
        " c4-train.00012.json.gz documents 1043-1051 (sequence 77 of data/pause),"
        " c4-train.00012.json.gz documents 1044-1052 (sequence 78 of data/pause),"
        " c4-train.00012.json.gz documents 1045-1053 (sequence 79 of data/pause)"
        " and 5 more, listed in run/bad-batches.jsonl"
    )
    assert "more" not in describe_bad_batch(Path("run"), 12, Verdict("the loss is nan"), batch_of(3))
    error = bad_batch_error(line)
    assert str(error).startswith(line)
    assert "--on-bad-batch skip" in str(error)
    assert "\n" not in str(error)


def test_file_lists_every_document_of_every_bad_batch(tmp_path: Path) -> None:
    for iteration, ends in ((12, False), (13, True)):
        write_bad_batch(tmp_path, iteration, Verdict("the gradient is not finite", ends_the_run=ends), batch_of(5))
    first, second = read_json_lines(tmp_path / BAD_BATCHES_FILE)
    assert (first["iteration"], first["dropped"], second["iteration"], second["dropped"]) == (12, True, 13, False)
    assert second["reason"] == "the gradient is not finite"
    assert [tuple(Documents(**documents) for documents in sample) for sample in second["samples"]] == batch_of(5)
