"""A plan survives its way to another MPI rank."""

from __future__ import annotations

import os
from pathlib import Path

from pause_megatron.corpus.blocks import ReadOptions
from pause_megatron.corpus.hub_datasets import HubSource
from pause_megatron.corpus.json_lines import JsonLinesSource
from pause_megatron.corpus.parquet import ParquetSource
from pause_megatron.corpus.saved_datasets import ArrowSource
from pause_megatron.corpus.sources import SOURCE_KINDS
from pause_megatron.preprocess.dataset_settings import DatasetSettings
from pause_megatron.preprocess.plan_json import plan_from_json, plan_to_json
from pause_megatron.preprocess.planning import Plan
from pause_megatron.preprocess.shard import ShardJob, ShardOutput

SOURCES = (
    JsonLinesSource(name="a", location=os.fsdecode(b"not UTF-8 \xff.jsonl"), size_bytes=2**40),
    ParquetSource(name="b", location="b.parquet", size_bytes=7),
    ArrowSource(name="c", location="saved/c.arrow"),
    HubSource(name="d", location="hf:d", dataset="d", config="en", split="train", shard=3, shards=8),
)


def settings(seed: int) -> DatasetSettings:
    return DatasetSettings(
        strategy="sequence",
        pause_rate=0.1,
        pauses_per_token=0,
        gaps="repeat",
        trimmed="carry",
        seq_length=64,
        seed=seed,
        text_key="text",
        tokenizer_sha256="0" * 64,
        encoder="tokenizers",
        vocab_size=500,
        pause_id=1,
        eod_id=2,
        bos_ids=(3,),
    )


def test_plan_of_every_kind_of_source_is_the_same_on_another_rank() -> None:
    outputs = tuple(ShardOutput(folder=Path(f"out {seed}"), settings=settings(seed)) for seed in (1, 2))
    jobs = tuple(
        ShardJob(
            source=SOURCES[index],
            index=index,
            options=ReadOptions(text_key="body", on_error="skip"),
            tokenizer=Path("tokenizer") / os.fsdecode(b"\xfe"),
            outputs=outputs[first:],
            progress=Path("out/progress"),
        )
        for index, first in ((3, 0), (0, 1))
    )
    plan = Plan(sources=SOURCES, outputs=outputs, jobs=jobs)
    assert plan_from_json(plan_to_json(plan)) == plan
    assert {type(source) for source in SOURCES} == set(SOURCE_KINDS.values())
