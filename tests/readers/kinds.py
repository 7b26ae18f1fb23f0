"""Table of the reader fuzz: each kind of file, how to make a good one, and how the commands read it.

What ``read`` returns is all that the reading command uses. Imports are within the functions, because ``KINDS`` is
needed to list them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.readers.fuzz import Kind
from tests.readers.good_folders import TEXTS, finetuning, made, write_columns, write_packed, write_plain, write_saved


def _copy(name: str) -> Any:
    return lambda folder: shutil.copytree(made(name), folder, dirs_exist_ok=True)


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
    special = (loaded.pause_id, loaded.stop_ids, loaded.bos_ids)
    return weights, ids, special, loaded.context_length, loaded.pretraining, loaded.finetuning


def _copy_work(folder: Path) -> None:
    shutil.copytree(finetuning(made("work")).work_folder, folder, dirs_exist_ok=True)


def _resume_work(folder: Path) -> bool:
    """Whether a run resumes from a state and metrics as they were written, or starts over; the state may be older."""
    from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST  # may have a blank more
    from pause_megatron.downstream.trainer_states import state_folder
    from pause_megatron.downstream.work_folder import WorkFolder

    config = finetuning(made("work"))
    with tempfile.TemporaryDirectory() as temporary:
        work = WorkFolder(shutil.copytree(folder, Path(temporary) / "work"))
        work.open(config)
        step = work.resume()
        metrics = [json.loads(line)["step"] for line in work.metrics.read_text().splitlines()]
        good, found = (state_folder(path, step) for path in (config.work_folder, work.path))
        contents = [
            {path.relative_to(state): path.read_bytes() for path in state.rglob("*") if path.name != MANIFEST}
            for state in (good, found)
        ]
        return metrics == list(range(1, step + 1)) and (not step or contents[0] == contents[1])


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


def _write_diagnosis(folder: Path) -> None:
    from pause_megatron.records.files import write_record
    from tests.report.sections.test_diagnosis import diagnosis

    write_record(folder / "diagnosis.json", diagnosis(pauses=4))


def _render_diagnosis(folder: Path) -> Any:
    from pause_megatron.report.collect import collect
    from pause_megatron.report.document import build_document
    from pause_megatron.report.write import render_files

    collected = collect([], [], diagnoses=[folder / "diagnosis.json"])
    return render_files(build_document(collected, title="Report", samples_per_task=3), collected)["report.json"]


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


def _write_reproduction(folder: Path) -> None:
    from pause_megatron.downstream.generated_tasks import write_task
    from pause_megatron.records.files import write_record
    from tests.report.sections.test_reproductions import ON_TEXT, RECORD

    write_record(folder / "reproduction.json", RECORD)
    write_record(folder / "on_text.json", ON_TEXT)
    write_task("3sum", folder / "task", seed=0, train=8, validation=0, test=4, hints=True)


def _read_reproduction(folder: Path) -> Any:
    from pause_megatron.records.files import read_record
    from pause_megatron.records.generated_task import GeneratedTaskRecord
    from pause_megatron.report.collect import collect
    from pause_megatron.report.sections.reproductions import reproductions_section

    files = [folder / "reproduction.json", folder / "on_text.json"]
    task = read_record(folder / "task" / GeneratedTaskRecord.FILE, GeneratedTaskRecord)
    return task, reproductions_section(collect([], [], reproductions=files).reproductions)


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


_MODEL_FILES = ("model.safetensors", "config.json", "generation_config.json", "tokenizer*.json")
"""Files with checksums in ``finetune.json`` or ``conversion_report.json``."""

KINDS = (
    Kind(name="JSON lines", make=write_plain, read=_read_corpus, files=("*",)),
    Kind(name="packed JSON lines", make=write_packed, read=_read_corpus, files=("*",), checked=("*",)),
    Kind(name="Parquet", make=write_columns, read=_read_corpus, files=("*",)),
    Kind(name="saved dataset", make=write_saved, read=_read_corpus, files=("saved/*",)),
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
    Kind(name="export", make=_copy("export"), read=_read_model, files=("*",), checked=_MODEL_FILES),
    Kind(name="finetuned model", make=_copy("finetuned"), read=_read_model, files=("*",), checked=_MODEL_FILES),
    Kind(name="work folder", make=_copy_work, read=_resume_work, files=("*", "*/*"), checked=("*",)),
    Kind(name="task records", make=_write_tasks, read=_read_tasks, files=("*/*",)),
    Kind(name="results", make=_write_results, read=_read_results, files=("*/*",)),
    Kind(name="diagnosis", make=_write_diagnosis, read=_render_diagnosis, files=("*",)),
    Kind(name="run folder", make=_write_run, read=_read_run, files=("run/*",)),
    Kind(name="report's inputs", make=_write_report, read=_render_report, files=("*/*",)),
    Kind(
        name="repeated experiment",
        make=_write_reproduction,
        read=_read_reproduction,
        files=("reproduction.json", "on_text.json", "task/generated_task.json"),
    ),
    Kind(name="grid", make=_write_grid, read=_read_grid, files=("*",)),
    Kind(name="--config file", make=_write_config, read=_read_config, files=("*",)),
    Kind(name="--deepspeed file", make=_write_deepspeed, read=_read_deepspeed, files=("*",)),
)
