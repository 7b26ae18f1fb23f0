"""``pause-megatron demo``: the complete chain at small size, from raw text to a report, by the real commands.

1. Text becomes a tokenizer and two datasets of the same documents, with and without pauses.
2. Two small GPTs are pretrained on them, each on two tensor-parallel processes, and exported.
3. Each is finetuned with and without pauses on a generated task: the paper's four variants.
4. All variants are evaluated.
5. As a positive control, parity with labels at the pauses is learned with pauses and not without, as published.
6. A report compares the variants, and shows the control in a section of its own.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pause_megatron.atomic import final_name, sweep, write_json
from pause_megatron.children import available_cores
from pause_megatron.config.experiments import DemoConfig
from pause_megatron.config.parallel import DEVICE_VARIABLE
from pause_megatron.config.serialize import to_plain
from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.errors import UserError
from pause_megatron.experiments.demo_commands import (
    FAST,
    GRID_FILE,
    PRETRAINED,
    TASK,
    DemoSize,
    control_step,
    convert_step,
    grid_step,
    preprocess_step,
    pretrain_step,
    report_step,
    tokenizer_step,
    write_grid,
)
from pause_megatron.experiments.demo_corpus import write_c4_corpus, write_pydoc_corpus
from pause_megatron.experiments.steps import Stage, Step, run_stages
from pause_megatron.records.files import read_json

SETTINGS_FILE = "demo.json"


def run_demo(config: DemoConfig) -> None:
    """Run or resume the demo in ``config.output`` and print the path of the report.

    Raises :class:`UserError` if the folder holds a demo of other settings, and the errors of :func:`run_stages`.
    """
    remember_settings(config)
    stages = list(demo_stages(config.output, FAST if config.fast else DemoSize(), config.c4))
    run_stages(stages, config.output / "logs", {DEVICE_VARIABLE: config.device})
    print(f"\nreport: {(config.output / 'report' / 'report.html').resolve()}", flush=True)


def remember_settings(config: DemoConfig) -> None:
    """Write the settings to ``config.output``. Raises :class:`UserError` if it holds a demo of other settings."""
    settings = {name: value for name, value in to_plain(config).items() if name not in ("output", "device")}
    path = config.output / SETTINGS_FILE
    if path.exists():
        begun = read_json(path)
        begun = begun if isinstance(begun, dict) else {}
        for name, value in settings.items():
            if begun.get(name) != value:
                raise UserError(
                    f"--output {config.output}: holds a demo with --{name} {begun.get(name)}, but now it is {value};"
                    " choose another --output, or remove the folder"
                )
    elif config.output.exists() and any(final_name(path.name) != SETTINGS_FILE for path in config.output.iterdir()):
        raise UserError(f"--output {config.output}: is not empty and is not a demo folder; choose another --output")
    else:
        sweep(config.output, SETTINGS_FILE)
        write_json(path, settings)


def demo_stages(output: Path, size: DemoSize, c4: tuple[str, ...]) -> Iterator[Stage]:
    """Yield the stages of the chain; all paths are below ``output``."""
    corpus = output / "corpus"
    write_corpus = partial(write_pydoc_corpus, corpus)
    if c4:
        write_corpus = partial(write_c4_corpus, c4, corpus, max_documents=size.max_documents)
    yield Stage(
        title=f"corpus: {'C4' if c4 else 'English text that comes with Python'}, in C4 format",
        steps=[Step(name="corpus", action=write_corpus, products=[corpus])],
    )
    yield Stage(title="tokenizer: SentencePiece with <pause>", steps=[tokenizer_step(output, size)])
    yield Stage(
        title="preprocess: the same documents with and without pauses, for training and validation",
        steps=[
            preprocess_step(output, size, split, kind)
            for split in ("train", "validation")
            for kind in ("standard", "pause")
        ],
    )
    for name, kind in PRETRAINED.items():
        yield Stage(
            title=f"pretrain {name}: Megatron-core on two processes (tensor parallel), DeepSpeed ZeRO-1",
            steps=[pretrain_step(output, size, name, kind)],
        )
    yield Stage(
        title="convert both checkpoints to Hugging Face, verified by their logits",
        steps=[convert_step(output, name) for name in PRETRAINED],
        at_once=min(2, available_cores()),
    )
    task = output / "tasks" / TASK
    write_records = partial(write_task, TASK, task, seed=0, train=size.train_samples, test=size.test_samples)
    yield Stage(
        title=f"generate the downstream task, {TASK}, and the grid file",
        steps=[
            Step(name="task", action=write_records, products=[task]),
            Step(name="grid-file", action=partial(write_grid, output, size), products=[output / GRID_FILE]),
        ],
    )
    yield Stage(
        title="finetune the four variants and evaluate them through lm-evaluation-harness",
        steps=[grid_step(output, size)],
    )
    if size.control:
        yield Stage(
            title="positive control: pauses with labels help on parity, as published by London & Kanade 2025",
            steps=[control_step(output)],
        )
    yield Stage(title="report", steps=[report_step(output, size)])
