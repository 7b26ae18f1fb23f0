"""Commands of an experiment on text: one model without pauses, and arms that continue from it with pauses.

1. The text becomes a tokenizer with ``<pause>`` and a dataset for each number of pauses after a token.
2. One model is trained without pauses.
3. If an arm has distinct pauses, they are added to an export of that model, which is imported again.
4. Every arm continues from the model, or from the import, with every seed, on as many real tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST
from pause_megatron.config.preprocess import InsertionConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.serialize import flags_of_mapping
from pause_megatron.config.text_experiments import TextArm, TextExperiment
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.experiments.steps import Stage, Step, command
from pause_megatron.experiments.text_experiment_file import DEEPSPEED
from pause_megatron.preprocess.dataset_manifest import DATASET_FILE
from pause_megatron.records.reproduction import TextReproductionRecord

HELD_OUT = "validation"
"""Folder name of the held-out text, the same for all arms: a report compares losses by this name."""
_PLAIN = "plain"
_PLAIN_SEED = 0
"""Seed of the model that all arms continue from."""


def text_stages(experiment: TextExperiment, texts: dict[str, list[str]], output: Path, jobs: int) -> Iterator[Stage]:
    """Yield the stages up to the results; all paths are below ``output``."""
    tokenizer = Step(
        name="tokenizer",
        action=command("tokenizer", "--input", *texts["text"], "--output", output / "tokenizer",
                        *flags_of_mapping(experiment.tokenizer, TokenizerConfig, "tokenizer")),
        products=[output / "tokenizer" / "manifest.json"],
    )  # fmt: skip
    yield Stage(title="tokenizer with <pause>, trained on the text", steps=[tokenizer])
    yield Stage(
        title="datasets without pauses and with pauses after every token",
        steps=_data_steps(experiment, texts, output, distinct=False),
        at_once=jobs,
    )
    yield Stage(title="the model that all arms continue from, without pauses", steps=[_plain_step(experiment, output)])
    if experiment.distinct_pauses:
        yield Stage(title="export of the model, verified by logits", steps=[_export_step(output)])
        yield Stage(title="the same model with distinct pauses", steps=[_import_step(experiment, output)])
        yield Stage(
            title="datasets with distinct pauses",
            steps=_data_steps(experiment, texts, output, distinct=True),
            at_once=jobs,
        )
    longest_first = sorted(experiment.arms, key=lambda arm: -arm.num_pauses)
    for seed in experiment.seeds:
        steps = [_arm_step(experiment, arm, output, seed) for arm in longest_first]
        yield Stage(title=f"every arm continues from the model, seed {seed}", steps=steps, at_once=jobs)


def text_report_step(experiment: TextExperiment, output: Path) -> Step:
    """Return the report on all runs."""
    runs = [run_folder(output, arm, seed) for arm in experiment.arms for seed in experiment.seeds]
    flags = ["--pretrain", *runs, "--reproductions", output / TextReproductionRecord.FILE]
    flags += ["--title", experiment.title, "--output", output / "report"]
    return Step(name="report", action=command("report", *flags), products=[output / "report" / "report.html"])


def plain_folder(output: Path) -> Path:
    """Return the run folder of the model that all arms continue from."""
    return output / "runs" / _PLAIN


def run_folder(output: Path, arm: TextArm, seed: int) -> Path:
    """Return the run folder of an arm."""
    return output / "runs" / f"{arm.key}-seed{seed}"


def _data_steps(experiment: TextExperiment, texts: dict[str, list[str]], output: Path, *, distinct: bool) -> list[Step]:
    """Return one pass over each text, which writes all datasets of one tokenizer."""
    datasets, tokenizer = list(experiment.datasets(distinct=distinct)), _tokenizer(output, distinct=distinct)
    steps = []
    for split, key in (("train", "text"), (HELD_OUT, "validation_text")):
        folders = [output / "data" / name / split for name, _ in datasets]
        (first, *_), (_, insertion) = folders, datasets[0]
        flags: list[object] = ["--input", *texts[key], "--tokenizer", tokenizer, "--output", first]
        flags += ["--pauses", insertion.pauses, "--seq-length", insertion.seq_length]
        if insertion.pauses == "every":
            flags += ["--pauses-per-token", insertion.pauses_per_token]
        if also := [_also(other, folder) for folder, (_, other) in zip(folders[1:], datasets[1:], strict=True)]:
            flags += ["--also", *also]
        name = f"preprocess-{split}{'-distinct' if distinct else ''}"
        products = [folder / DATASET_FILE for folder in folders]
        steps.append(Step(name=name, action=command("preprocess", *flags), products=products))
    return steps


def _also(insertion: InsertionConfig, folder: Path) -> str:
    count = insertion.pauses_per_token
    return f"{insertion.pauses},pauses-per-token={count},seq-length={insertion.seq_length}:{folder}"


def _tokenizer(output: Path, *, distinct: bool) -> Path:
    return output / "import" / "tokenizer" if distinct else output / "tokenizer"


def _plain_step(experiment: TextExperiment, output: Path) -> Step:
    settings = {**experiment.plain, "seed": _PLAIN_SEED, "model_name": _PLAIN}
    data = output / "data" / "none"
    return _training_step(experiment, settings, data, plain_folder(output), output / "tokenizer")


def _arm_step(experiment: TextExperiment, arm: TextArm, output: Path, seed: int) -> Step:
    start = output / "import" if arm.distinct else plain_folder(output)
    settings = {**experiment.continued, "seed": seed, "model_name": arm.name, "initial_checkpoint": start}
    settings["pause_positions"] = arm.pause_positions
    folder, tokenizer = run_folder(output, arm, seed), _tokenizer(output, distinct=arm.distinct)
    return _training_step(experiment, settings, output / "data" / arm.dataset, folder, tokenizer)


def _training_step(
    experiment: TextExperiment, settings: dict[str, Any], data: Path, folder: Path, tokenizer: Path
) -> Step:
    flags: list[object] = ["--data", data / "train", "--validation-data", data / HELD_OUT, "--tokenizer", tokenizer]
    flags += ["--output", folder]
    settings = {"deepspeed": DEEPSPEED, **experiment.model, **experiment.train, **settings}
    settings["max_position_embeddings"] = experiment.positions
    flags += flags_of_mapping(settings, PretrainConfig, "pretrain")
    newest = folder / CHECKPOINTS / checkpoint_name(settings["train_iters"]) / MANIFEST
    return Step(name=f"pretrain-{folder.name}", action=command("pretrain", *flags), products=[newest])


def _export_step(output: Path) -> Step:
    folder = output / "export"
    flags = ["--checkpoint", plain_folder(output), "--output", folder]
    return Step(name="export", action=command("convert-to-hf", *flags), products=[folder])


def _import_step(experiment: TextExperiment, output: Path) -> Step:
    folder = output / "import"
    flags = ["--model", output / "export", "--output", folder, "--distinct-pauses", experiment.distinct_pauses]
    return Step(name="import", action=command("convert-from-hf", *flags), products=[folder])
