"""Good folders that several kinds of the reader fuzz start from, each made once for a process."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from pause_megatron.config.downstream import FinetuneConfig

TEXTS = [text[:800] for text in list(topics.topics.values())[:12]] + ["naïve café <pause> 日本語"]
LINES = "".join(json.dumps({"text": text, "url": "x"}, ensure_ascii=bool(n % 2)) + "\n" for n, text in enumerate(TEXTS))


@functools.cache
def made(name: str) -> Path:
    """A folder that several kinds start from, made once and removed at the end of the process."""
    holder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _HELD.append(holder)
    makers = (_make_tokenizer, _make_dataset, _make_model, _make_export, _make_finetuned, _make_work)
    {maker.__name__.removeprefix("_make_"): maker for maker in makers}[name](Path(holder.name) / name)
    return Path(holder.name) / name


_HELD: list[tempfile.TemporaryDirectory[str]] = []


def _make_tokenizer(folder: Path) -> None:
    from pause_megatron.config.tokenizer import TokenizerConfig
    from pause_megatron.tokenizer.make_tokenizer import train_tokenizer

    corpus = folder.with_suffix(".jsonl")
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in topics.topics.values()))
    train_tokenizer(TokenizerConfig(input=(str(corpus),), output=folder, vocab_size=512))


def _make_dataset(folder: Path) -> None:
    from pause_megatron.config.preprocess import InsertionConfig, PreprocessConfig
    from pause_megatron.preprocess.run import preprocess

    inputs = []
    for name in ("a", "b"):
        inputs.append(str(folder.with_name(f"{name}.jsonl")))
        Path(inputs[-1]).write_text(LINES)
    insertion = InsertionConfig(pauses="document")
    preprocess(
        PreprocessConfig(
            input=tuple(inputs), tokenizer=made("tokenizer"), output=folder, insertion=insertion, engine="serial"
        )
    )


def _make_model(folder: Path) -> None:
    from pause_megatron.tokenizer import PauseTokenizer
    from pause_megatron.tokenizer.huggingface import to_huggingface
    from tests.downstream.random_models import random_model

    tokenizer = PauseTokenizer.load(made("tokenizer"))
    random_model("gpt2", tokenizer.vocab_size).save_pretrained(folder)
    to_huggingface(tokenizer).save_pretrained(folder)


def _make_export(folder: Path) -> None:
    from pause_megatron.records.checksums import checksums
    from pause_megatron.records.conversion import ExportRecord
    from pause_megatron.records.files import write_record
    from tests.records.examples import example

    shutil.copytree(made("model"), folder)
    write_record(folder / ExportRecord.FILE, replace(example(ExportRecord), files=checksums(folder)))


def finetuning(output: Path) -> FinetuneConfig:
    """A short finetuning of the model, with three states."""
    from pause_megatron.config.downstream import FinetuneConfig
    from pause_megatron.config.pausing import FinetunePausing
    from pause_megatron.downstream.generated_tasks import write_task

    task = made("model").with_name("parity")
    if not task.exists():
        write_task("parity", task, seed=0, train=50, validation=5, test=5)
    return FinetuneConfig(
        model=made("model"),
        task="parity",
        data=task,
        output=output,
        pausing=FinetunePausing(num_pauses_ft=2),
        steps=6,
        batch_size=4,
        warmup_steps=1,
        log_interval=1,
        save_interval=2,
    )


def _make_finetuned(folder: Path) -> None:
    from pause_megatron.downstream.finetune import finetune

    finetune(finetuning(folder))


def _make_work(folder: Path) -> None:
    """``folder`` is the output; only the hidden folder beside it exists, with the states of steps 2 and 4."""
    from transformers import Trainer

    from pause_megatron.downstream.finetune import finetune

    step = Trainer.training_step

    def interrupted(self: Trainer, *given: Any) -> Any:
        if self.state.global_step == 5:
            raise _Interruption
        return step(self, *given)

    Trainer.training_step = interrupted
    try:
        finetune(finetuning(folder))
    except _Interruption:
        pass
    finally:
        Trainer.training_step = step


class _Interruption(Exception):  # noqa: N818 - stands for a signal
    pass


def write_packed(folder: Path) -> None:
    """JSON lines, compressed in both ways."""
    (folder / "a.json.gz").write_bytes(gzip.compress(LINES.encode()))
    packer = zstandard.ZstdCompressor(write_checksum=True)
    (folder / "b.jsonl.zst").write_bytes(packer.compress(LINES.encode()))


def write_plain(folder: Path) -> None:
    """JSON lines."""
    (folder / "a.jsonl").write_text(LINES)


def write_columns(folder: Path) -> None:
    """A Parquet file with checksums of its pages."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": TEXTS, "n": list(range(len(TEXTS)))})
    pyarrow.parquet.write_table(table, folder / "a.parquet", write_page_checksum=True)


def write_saved(folder: Path) -> None:
    """A dataset of the library ``datasets``, in two shards."""
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "saved", num_shards=2)
