"""Table of the reader fuzz: each kind of file, how to make a good one, and how the commands read it.

What ``read`` returns is all that the reading command uses. Imports are within the functions, because ``KINDS`` is
needed to list them.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from pydoc_data import topics
from typing import Any

import zstandard

from tests.readers.fuzz import Kind

TEXTS = [text[:800] for text in list(topics.topics.values())[:12]] + ["naïve café <pause> 日本語"]
LINES = "".join(json.dumps({"text": text, "url": "x"}, ensure_ascii=bool(n % 2)) + "\n" for n, text in enumerate(TEXTS))


@functools.cache
def made(name: str) -> Path:
    """A folder that several kinds start from, made once and removed at the end of the process."""
    holder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _HELD.append(holder)
    {"tokenizer": _make_tokenizer, "dataset": _make_dataset, "model": _make_model}[name](Path(holder.name) / name)
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


def _copy(name: str) -> Any:
    return lambda folder: shutil.copytree(made(name), folder, dirs_exist_ok=True)


def _write_packed(folder: Path) -> None:
    (folder / "a.json.gz").write_bytes(gzip.compress(LINES.encode()))
    packer = zstandard.ZstdCompressor(write_checksum=True)
    (folder / "b.jsonl.zst").write_bytes(packer.compress(LINES.encode()))


def _write_plain(folder: Path) -> None:
    (folder / "a.jsonl").write_text(LINES)


def _write_columns(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": TEXTS, "n": list(range(len(TEXTS)))})
    pyarrow.parquet.write_table(table, folder / "a.parquet", write_page_checksum=True)


def _write_saved(folder: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "saved", num_shards=2)


def _read_corpus(folder: Path) -> list[str]:
    from pause_megatron.corpus import ReadOptions, find_sources

    sources = find_sources([str(folder / "*")])
    return [text for source in sources for block in source.read(ReadOptions()) for text in block.texts]


def _read_tokenizer(folder: Path) -> Any:
    from pause_megatron.tokenizer import PauseTokenizer

    tokenizer = PauseTokenizer.load(folder)
    ids = [tokenizer.encode(text) for text in TEXTS]
    return ids, [tokenizer.decode(found) for found in ids], tokenizer.vocab_size, tokenizer.pause_id, tokenizer.eod_id


def _export_tokenizer(folder: Path) -> None:
    from pause_megatron.tokenizer import PauseTokenizer
    from pause_megatron.tokenizer.huggingface import to_huggingface

    to_huggingface(PauseTokenizer.load(made("tokenizer"))).save_pretrained(folder)


def _verify_dataset(folder: Path) -> Any:
    from pause_megatron.config.dataset import VerifyDatasetConfig
    from pause_megatron.preprocess.dataset_manifest import read_dataset_manifest
    from pause_megatron.preprocess.verification.verify_dataset import verify_dataset

    verify_dataset(VerifyDatasetConfig(data=folder, workers=1))
    manifest = read_dataset_manifest(folder)
    tokens = [
        hashlib.sha256((folder / f"{shard.name}{suffix}").read_bytes()).hexdigest()
        for shard in manifest.shards
        for suffix in (".bin", ".idx")
    ]
    return tokens, manifest.settings


def _check_for_training(folder: Path) -> Any:
    """Folders as ``pretrain`` checks them before it starts; their tokenizer is damaged too."""
    from pause_megatron.config.blend import BlendComponent
    from pause_megatron.data.data_folders import check_training_folders
    from pause_megatron.tokenizer import PauseTokenizer

    tokenizer = PauseTokenizer.load(folder / "tokenizer")
    parts = (BlendComponent(folder=folder / "dataset", weight=None),)
    (checked,) = check_training_folders(parts, tokenizer, seq_length=32, max_position_embeddings=32)
    return tokenizer.sha256, checked.num_samples, checked.fingerprint, checked.manifest.settings


def _write_for_training(folder: Path) -> None:
    shutil.copytree(made("dataset"), folder / "dataset")
    shutil.copytree(made("tokenizer"), folder / "tokenizer")


def _read_shard_records(folder: Path) -> Any:
    from pause_megatron.preprocess.dataset_manifest import ShardRecord
    from pause_megatron.records.files import read_record

    return [read_record(folder / f"{name}.json", ShardRecord) for name in ("a", "b")]


def _write_checkpoint(folder: Path) -> None:
    from tests.checkpoint.handmade import write_checkpoint

    write_checkpoint(folder / "iter_1")


def _read_checkpoint(folder: Path) -> Any:
    from pause_megatron.checkpoint.reader import CheckpointReader

    reader = CheckpointReader(folder / "iter_1")
    reader.verify()
    keys = reader.parameters.keys()
    return reader.state, reader.optimizer, [reader.read_parameter(name).tolist() for name in sorted(keys)]


def _read_model(folder: Path) -> Any:
    from pause_megatron.downstream.model_folder import load_model_folder

    loaded = load_model_folder(folder)
    weights = {name: tensor.numpy().tobytes() for name, tensor in loaded.model.state_dict().items()}
    ids = [loaded.encode(text) for text in TEXTS]
    return weights, ids, loaded.pause_id, loaded.eod_id, loaded.context_length, loaded.pretraining, loaded.finetuning


def _write_tasks(folder: Path) -> None:
    from tests.downstream.test_task_records import GOOD

    for task in ("squad", "coqa", "commonsense_qa", "hellaswag", "lambada", "piqa"):
        (folder / task).mkdir()
        for split in ("train", "validation", "test"):
            (folder / task / f"{split}.jsonl").write_text(f"{json.dumps(GOOD[task][0])}\n" * 3)


def _read_tasks(folder: Path) -> Any:
    from pause_megatron.downstream.tasks import load_task

    tasks = [load_task(path.name, path) for path in sorted(folder.iterdir())]
    return [pair for task in tasks for pair in task.training_pairs()], [list(task.harness.eval_docs) for task in tasks]


def _write_results(folder: Path) -> None:
    from tests.report.inputs import evaluation, scored, variants, write_evaluations, write_finetuned

    records = [*variants(("parity",))[:2], evaluation(variant=None, pretraining=None), scored("stdpt_stdft", 0.4)]
    records[0] = write_finetuned(folder / "ft", records[0])
    write_evaluations(folder / "results", records)


def _read_results(folder: Path) -> Any:
    from pause_megatron.report.collect import collect

    return collect([folder / "results"], [])


def _write_run(folder: Path) -> None:
    from tests.report.inputs import write_run

    write_run(folder / "run", iterations=100)


def _read_run(folder: Path) -> Any:
    from pause_megatron.report.collect import collect

    return collect([], [folder / "run"])


def _write_report(folder: Path) -> None:
    _write_results(folder)
    _write_run(folder)


def _render_report(folder: Path) -> Any:
    from pause_megatron.report.collect import collect
    from pause_megatron.report.document import build_document
    from pause_megatron.report.write import render_files

    collected = collect([folder / "results"], [folder / "run"])
    files = render_files(build_document(collected, title="Report", samples_per_task=3), collected)
    return files["report.json"], files["report.md"]


def _write_grid(folder: Path) -> None:
    grid = {
        "models": {"stdpt": "hf/stdpt", "pausept": "hf/pausept"},
        "tasks": {"gsm8k": "tasks/gsm8k", "parity": {"data": "tasks/parity", "finetune": {"steps": 3}}},
        "num_pauses_ft": [0, 10, "0..5"],
        "num_pauses_inf": ["same", 0],
        "seeds": [1, 2],
        "finetune": {"preset": "tiny", "learning_rate": "1e-4", "batch_size": 8},
        "evaluate": {"batch_size": 8, "limit": 10},
    }
    (folder / "grid.json").write_text(json.dumps(grid, indent=1))


def _read_grid(folder: Path) -> Any:
    from pause_megatron.config.experiments import GridConfig
    from pause_megatron.experiments.grid_file import read_grid
    from pause_megatron.experiments.grid_jobs import grid_jobs

    grid = read_grid(GridConfig(grid=str(folder / "grid.json"), output=folder / "out"))
    jobs = grid_jobs(grid, folder / "out", "--grid")
    return [job.command_line() for job in jobs]


def _write_config(folder: Path) -> None:
    finetune = {"model": "hf/m", "task": "gsm8k", "output": "ft", "learning_rate": 1e-4, "steps": 10, "seed": 3}
    pretrain = {
        "data": ["a", "b"],
        "tokenizer": "tok",
        "output": "run",
        "deepspeed": "ds.json",
        "model": {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4},
        "training": {"train_iters": 10, "micro_batch_size": 2, "global_batch_size": 4},
    }
    (folder / "finetune.json").write_text(json.dumps(finetune))
    (folder / "pretrain.json").write_text(json.dumps(pretrain))


def _read_config(folder: Path) -> Any:
    from pause_megatron.cli.commands import SUBCOMMANDS
    from pause_megatron.cli.flags import parse

    names = ("finetune", "pretrain")
    return [parse(SUBCOMMANDS[name].config_class(), name, ["--config", str(folder / f"{name}.json")]) for name in names]


def _write_deepspeed(folder: Path) -> None:
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}, "overlap_comm": True}
    values = {"zero_optimization": zero, "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    (folder / "zero.json").write_text(json.dumps(values))


def _read_deepspeed(folder: Path) -> Any:
    from pause_megatron.config.deepspeed import read_deepspeed_file

    return read_deepspeed_file(folder / "zero.json")


KINDS = (
    Kind(name="JSON lines", make=_write_plain, read=_read_corpus, files=("*",)),
    Kind(name="packed JSON lines", make=_write_packed, read=_read_corpus, files=("*",), checked=("*",)),
    Kind(name="Parquet", make=_write_columns, read=_read_corpus, files=("*",)),
    Kind(name="saved dataset", make=_write_saved, read=_read_corpus, files=("saved/*",)),
    Kind(name="tokenizer.model", make=_copy("tokenizer"), read=_read_tokenizer, files=("*",)),
    Kind(name="tokenizer.json", make=_export_tokenizer, read=_read_tokenizer, files=("*",)),
    Kind(
        name="dataset, verified",
        make=_copy("dataset"),
        read=_verify_dataset,
        files=("dataset.json", "*.bin", "*.idx"),
        checked=("*.bin", "*.idx"),
    ),
    Kind(
        name="dataset, at start",
        make=_write_for_training,
        read=_check_for_training,
        files=("dataset/dataset.json", "tokenizer/*", "dataset/*.idx"),
        checked=("tokenizer/tokenizer.model",),
    ),
    Kind(name="shard record", make=_copy("dataset"), read=_read_shard_records, files=("[ab].json",)),
    Kind(name="checkpoint", make=_write_checkpoint, read=_read_checkpoint, files=("iter_1/*",), checked=("*",)),
    Kind(name="model folder", make=_copy("model"), read=_read_model, files=("*",)),
    Kind(name="task records", make=_write_tasks, read=_read_tasks, files=("*/*",)),
    Kind(name="results", make=_write_results, read=_read_results, files=("*/*",)),
    Kind(name="run folder", make=_write_run, read=_read_run, files=("run/*",)),
    Kind(name="report's inputs", make=_write_report, read=_render_report, files=("*/*",)),
    Kind(name="grid", make=_write_grid, read=_read_grid, files=("*",)),
    Kind(name="--config file", make=_write_config, read=_read_config, files=("*",)),
    Kind(name="--deepspeed file", make=_write_deepspeed, read=_read_deepspeed, files=("*",)),
)
