"""``pause-megatron demo``: the whole chain at small size, every link by its real command.

Text becomes a tokenizer and two datasets of the same documents, one with pauses; two small GPTs are pretrained on
them, each on two processes that share every layer; both are exported; each is finetuned with and without pauses on a
generated task, which gives the paper's four variants; all are evaluated, and the report says what came out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pause_megatron.atomic import write_json
from pause_megatron.children import available_cores
from pause_megatron.config.experiments import DemoConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.errors import UserError
from pause_megatron.experiments.demo_commands import (
    FAST,
    FULL,
    GRID_FILE,
    PRETRAINED,
    REPOSITORY,
    TASK,
    Scale,
    convert_step,
    grid_step,
    preprocess_step,
    pretrain_step,
    report_step,
    tokenizer_step,
    write_grid,
)
from pause_megatron.experiments.demo_corpus import write_c4_corpus, write_pydoc_corpus
from pause_megatron.experiments.steps import Stage, StageRunner, Step

SETTINGS_FILE = "demo.json"


def run_demo(config: DemoConfig) -> None:
    """Run, or continue, the demo in ``config.output`` and print the report's path.

    Raises :class:`UserError` when the folder holds a demo of other settings, or a step fails for want of good input.
    """
    if not (REPOSITORY / "ds_configs").is_dir():
        raise UserError("the demo runs the scripts of a checkout: install with 'pip install -e .' in the repository")
    remember_settings(config)
    stages = list(demo_stages(config.output, FAST if config.fast else FULL, config.c4))
    runner = StageRunner(logs=config.output / "logs", number_of_stages=len(stages))
    for stage in stages:
        runner.run(stage)
    print(f"\nreport: {(config.output / 'report' / 'report.html').resolve()}", flush=True)


def remember_settings(config: DemoConfig) -> None:
    """Write the settings into a new demo's folder; refuse to continue a demo of other settings."""
    settings = {name: value for name, value in to_plain(config).items() if name != "output"}
    path = config.output / SETTINGS_FILE
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if begun[name] != value:
                raise UserError(
                    f"--output {config.output} holds a demo begun with --{name} {begun[name]}, now {value} is given;"
                    " name another folder or remove it"
                )
    elif config.output.exists() and any(config.output.iterdir()):
        raise UserError(f"--output {config.output} holds something else than a demo; name another folder")
    else:
        write_json(path, settings)


def demo_stages(output: Path, scale: Scale, c4: tuple[str, ...]) -> Iterator[Stage]:
    """The chain as stages; every path below ``output``."""
    corpus = output / "corpus"
    write_corpus = (
        partial(write_c4_corpus, c4, corpus, max_documents=scale.max_documents)
        if c4
        else partial(write_pydoc_corpus, corpus)
    )
    yield Stage(
        title=f"corpus: {'C4' if c4 else 'the English text that ships with Python'}, in C4 format",
        steps=[Step(name="corpus", action=write_corpus, product=corpus)],
    )
    yield Stage(title="tokenizer: SentencePiece with <pause>", steps=[tokenizer_step(output, scale)])
    yield Stage(
        title="preprocess: the same documents with pauses and without, for training and for validation",
        steps=[
            preprocess_step(output, scale, split, kind)
            for split in ("train", "validation")
            for kind in ("standard", "pause")
        ],
    )
    for name, kind in PRETRAINED.items():
        yield Stage(
            title=f"pretrain {name}: Megatron-core on two processes (tensor parallel), DeepSpeed ZeRO-1",
            steps=[pretrain_step(output, scale, name, kind)],
        )
    yield Stage(
        title="convert both checkpoints to Hugging Face, verified by their logits",
        steps=[convert_step(output, name) for name in PRETRAINED],
        at_once=min(2, available_cores()),
    )
    task = output / "tasks" / TASK
    write_records = partial(write_task, TASK, task, seed=0, train=scale.train_samples, test=scale.test_samples)
    yield Stage(
        title=f"generate the downstream task, {TASK}, and a grid of what is to be measured",
        steps=[
            Step(name="task", action=write_records, product=task),
            Step(name="grid-file", action=partial(write_grid, output, scale), product=output / GRID_FILE),
        ],
    )
    yield Stage(
        title="finetune the four variants and evaluate them through lm-evaluation-harness",
        steps=[grid_step(output, scale)],
    )
    yield Stage(title="report", steps=[report_step(output)])
