"""``pause-megatron reproduce``: a published small experiment by the real commands, next to its published numbers.

An experiment trains on a generated task, or on text (:mod:`~pause_megatron.experiments.text_reproduction`). On a task:

1. English text becomes a tokenizer and a dataset, only so that a model can be initialised.
2. For each seed: a model that is "pretrained" for one step with a vanishing learning rate, so that it keeps its random
   weights, and its export; the generated task; a grid that finetunes and evaluates all arms.
3. reproduction.json and reproduction.md compare the arms with the publication, and a report shows them.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import yaml

from pause_megatron.atomic import final_name, sweep, write_file, write_json
from pause_megatron.config.parallel import DEVICE_VARIABLE
from pause_megatron.config.reproductions import Experiment, ReproduceConfig
from pause_megatron.config.serialize import to_plain
from pause_megatron.config.text_experiments import TextExperiment
from pause_megatron.errors import UserError
from pause_megatron.experiments.demo_commands import DemoSize, preprocess_step, tokenizer_step
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.experiments.reproduction_file import is_on_text, read_experiment
from pause_megatron.experiments.reproduction_results import collect_results, markdown, result_file
from pause_megatron.experiments.steps import Stage, Step, command, run_stages
from pause_megatron.experiments.text_experiment_file import read_text_experiment, texts_of
from pause_megatron.experiments.text_reproduction import text_report_step, text_stages
from pause_megatron.experiments.text_results import collect_text_results, text_markdown
from pause_megatron.records.files import read_json, write_record
from pause_megatron.records.reproduction import ReproductionRecord, TextReproductionRecord

SETTINGS_FILE = "experiment.json"
TABLE_FILE = "reproduction.md"
VOCAB_SIZE = 512
_MODEL = "initial"
"""Name of the models: their weights are the initial ones."""
_NO_LEARNING = 1e-12
"""Learning rate of the only pretraining step; a weight of 0.1 keeps every bit in fp32."""


def run_reproduction(config: ReproduceConfig) -> None:
    """Run or resume the experiment in ``config.output``, and print its table.

    Raises :class:`UserError` for an experiment with unknown settings and for a folder of another experiment, and the
    errors of :func:`~pause_megatron.experiments.steps.run_stages`.
    """
    output = config.output.absolute()
    logs, environment = output / "logs", {DEVICE_VARIABLE: config.device}
    record: ReproductionRecord | TextReproductionRecord
    if is_on_text(config.experiment):
        on_text, texts = read_text_experiment(config), texts_of(config)
        remember_experiment(on_text, config, texts)
        run_stages(list(text_stages(on_text, texts, output, config.jobs)), logs, environment)
        record = collect_text_results(config.experiment, on_text, output, config.changes)
        table, report = text_markdown(record), text_report_step(on_text, output)
    else:
        experiment = read_experiment(config)
        remember_experiment(experiment, config)
        run_stages(list(reproduction_stages(experiment, output, config.jobs)), logs, environment)
        record = collect_results(config.experiment, experiment, output, config.changes)
        table, report = markdown(record), _report_step(experiment, output)
    write_record(output / record.FILE, record)
    with write_file(output / TABLE_FILE) as file:
        file.write(table.encode())
    page = output / "report" / "report.html"
    page.unlink(missing_ok=True)  # an earlier one may have other seeds
    run_stages([Stage(title="report", steps=[report])], logs, environment)
    print(f"\n{table}\nreport: {page}", flush=True)


def remember_experiment(
    experiment: Experiment | TextExperiment, config: ReproduceConfig, texts: Mapping[str, list[str]] | None = None
) -> None:
    """Write the settings to the output folder. Raises :class:`UserError` if it holds other ones, except for seeds."""
    output, path = config.output, config.output / SETTINGS_FILE
    settings = {"name": config.experiment, **to_plain(experiment), **(texts or {})}
    del settings["seeds"]
    if path.exists():
        begun = read_json(path)
        for key, value in settings.items():
            if not isinstance(begun, dict) or begun.get(key) != value:
                raise UserError(
                    f"--output {output}: holds an experiment with another '{key}' than {json.dumps(value)}"
                    f" ({SETTINGS_FILE}); choose another --output, or remove the folder"
                )
    elif output.exists() and any(final_name(path.name) != SETTINGS_FILE for path in output.iterdir()):
        raise UserError(f"--output {output}: is not empty and holds no experiment; choose another --output")
    else:
        sweep(output, SETTINGS_FILE)  # of a run that was killed at its first file
        write_json(path, settings)


def reproduction_stages(experiment: Experiment, output: Path, jobs: int) -> Iterator[Stage]:
    """Yield the stages up to the results; all paths are below ``output``."""
    size = DemoSize(vocab_size=VOCAB_SIZE, seq_length=experiment.positions)
    corpus = Step(name="corpus", action=partial(write_pydoc_corpus, output / "corpus"), products=[output / "corpus"])
    yield Stage(title="text for a tokenizer: English text that comes with Python", steps=[corpus])
    yield Stage(title=f"tokenizer of {VOCAB_SIZE} pieces with <pause>", steps=[tokenizer_step(output, size)])
    yield Stage(title="a dataset to start a model with", steps=[preprocess_step(output, size, "train", "standard")])
    yield Stage(
        title="initial weights of each seed: one step with a vanishing learning rate",
        steps=[_initial_step(experiment, output, seed) for seed in experiment.seeds],
        at_once=jobs,
    )
    yield Stage(
        title="export, verified by logits",
        steps=[_export_step(output, seed) for seed in experiment.seeds],
        at_once=jobs,
    )
    yield Stage(
        title=f"generate the task {experiment.task} and the grid file of each seed",
        steps=[
            step
            for seed in experiment.seeds
            for step in (_task_step(experiment, output, seed), _grid_file_step(experiment, output, seed))
        ],
        at_once=jobs,
    )
    for seed in experiment.seeds:
        yield Stage(title=f"finetune and evaluate every arm, seed {seed}",
                    steps=[_grid_step(experiment, output, seed, jobs)])  # fmt: skip


def seed_folder(output: Path, seed: int) -> Path:
    """Return the folder of one seed."""
    return output / f"seed{seed}"


def _initial_step(experiment: Experiment, output: Path, seed: int) -> Step:
    run = seed_folder(output, seed) / "run"
    flags: list[object] = ["--data", output / "data" / "train-standard", "--tokenizer", output / "tokenizer"]
    flags += ["--output", run, "--deepspeed", "zero1_fp32"]
    for name, value in experiment.model.items():
        flags += [f"--{name.replace('_', '-')}", value]
    flags += ["--max-position-embeddings", experiment.positions, "--seed", seed, "--model-name", _MODEL]
    flags += ["--train-iters", 1, "--global-batch-size", 1, "--micro-batch-size", 1]
    flags += ["--learning-rate", _NO_LEARNING, "--weight-decay", 0]
    newest = run / "checkpoints" / "iter_0000001" / "manifest.json"
    return Step(name=f"initial-seed{seed}", action=command("pretrain", *flags), products=[newest])


def _export_step(output: Path, seed: int) -> Step:
    folder = seed_folder(output, seed) / "model"
    action = command("convert-to-hf", "--checkpoint", folder.with_name("run"), "--output", folder)
    return Step(name=f"export-seed{seed}", action=action, products=[folder])


def _task_step(experiment: Experiment, output: Path, seed: int) -> Step:
    folder = seed_folder(output, seed) / "task"
    flags: list[object] = ["--output", folder, "--seed", seed]
    for name, value in {**experiment.sizes, **experiment.parameters}.items():
        flags += [f"--{name.replace('_', '-')}", value]
    if any(arm.hint_weight for arm in experiment.arms):
        flags.append("--hints")
    return Step(name=f"task-seed{seed}", action=command("generate-task", experiment.task, *flags), products=[folder])


def _grid_file_step(experiment: Experiment, output: Path, seed: int) -> Step:
    path = seed_folder(output, seed) / "grid.yaml"
    grid = {
        "models": {_MODEL: str(path.with_name("model"))},
        "tasks": {experiment.task: str(path.with_name("task"))},
        "num_pauses_ft": list(dict.fromkeys(map(experiment.num_pauses, experiment.arms))),
        "hint_weights": list(dict.fromkeys(arm.hint_weight for arm in experiment.arms)),
        "seeds": [seed],
        "finetune": to_plain(experiment.finetune),
        "evaluate": {"batch_size": 128},
    }

    def write() -> None:
        with write_file(path) as file:
            file.write(yaml.safe_dump(grid, sort_keys=False).encode())

    return Step(name=f"grid-file-seed{seed}", action=write, products=[path])


def _grid_step(experiment: Experiment, output: Path, seed: int, jobs: int) -> Step:
    folder = seed_folder(output, seed)
    flags = ["--grid", folder / "grid.yaml", "--output", folder / "grid", "--jobs", jobs]
    results = [result_file(experiment, arm, folder, seed) for arm in experiment.arms]
    return Step(name=f"grid-seed{seed}", action=command("grid", *flags), products=results, show_all_lines=True)


def _report_step(experiment: Experiment, output: Path) -> Step:
    results = [result_file(experiment, arm, seed_folder(output, seed), seed) for seed in experiment.seeds
               for arm in experiment.arms]  # fmt: skip
    flags = ["--evaluations", *results, "--reproductions", output / ReproductionRecord.FILE]
    flags += ["--title", experiment.title, "--output", output / "report"]
    return Step(name="report", action=command("report", *flags), products=[output / "report" / "report.html"])
