"""An experiment on text: its definition, its commands, the complete chain at tiny size, and its comparison."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pause_megatron.cli.commands import COMMANDS
from pause_megatron.cli.flags import parse
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.reproductions import ReproduceConfig
from pause_megatron.config.text_experiments import TextExperiment
from pause_megatron.errors import EXIT_DONE, UserError
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.experiments.reproduce import run_reproduction
from pause_megatron.experiments.reproduction_file import read_experiment
from pause_megatron.experiments.text_experiment_file import read_text_experiment, texts_of
from pause_megatron.experiments.text_reproduction import plain_folder, run_folder, text_stages
from pause_megatron.experiments.text_results import collect_text_results, text_markdown
from pause_megatron.log import read_json_lines
from pause_megatron.records.files import line_of, read_record, write_record
from pause_megatron.records.pretraining import METRICS_FILE, RunRecord, TrainRecord, ValidationRecord
from pause_megatron.records.reproduction import TextReproductionRecord
from tests.report.inputs import example, write_run

TINY = (
    *("tokenizer.vocab_size=510", "real_tokens=16", "plain.train_iters=4", "continued.train_iters=3"),
    *("train.global_batch_size=4", "train.micro_batch_size=4", "train.validation_sequences=64", "train.log_interval=1"),
    *("model.num_layers=1", "model.hidden_size=16", "train.warmup_fraction=0"),
)


@pytest.fixture
def config(tmp_path: Path) -> ReproduceConfig:
    for name in ("train", "held-out"):
        (tmp_path / f"{name}.json.gz").touch()
    return ReproduceConfig(
        experiment="c4-every",
        output=tmp_path / "out",
        text=(str(tmp_path / "train.json.gz"),),
        validation_text=(str(tmp_path / "held-out.json.gz"),),
        seeds=(0, 1),
    )


def commands(experiment: TextExperiment, config: ReproduceConfig) -> dict[str, Any]:
    """Name of each step to its parsed command line."""
    parsed = {}
    for stage in text_stages(experiment, texts_of(config), config.output, jobs=1):
        for step in stage.steps:
            assert not callable(step.action)
            program, *flags = step.action
            command = flags.pop(0) if program == "-m" and flags.pop(0) == "pause_megatron" else Path(program).name
            parsed[step.name] = parse(COMMANDS[command].config_class(), command, list(flags))
    return parsed


def test_arms_differ_only_in_their_pauses(config: ReproduceConfig) -> None:
    experiment = read_text_experiment(config)
    parsed = commands(experiment, config)
    runs = {name: one for name, one in parsed.items() if isinstance(one, PretrainConfig)}
    arms = {name: one for name, one in runs.items() if name.endswith("seed0")}
    assert len(arms) == len(experiment.arms) == 6
    assert {one.training for one in arms.values()} == {runs["pretrain-none-seed0"].training}
    assert {one.optimizer for one in arms.values()} == {runs["pretrain-none-seed0"].optimizer}
    assert {replace(one.model, pause_positions="shift") for one in runs.values()} == {runs["pretrain-plain"].model}
    assert runs["pretrain-plain"].model.max_position_embeddings == 3 * 128
    for arm in experiment.arms:
        run = arms[f"pretrain-{arm.key}-seed0"]
        assert run.model.shares_positions == (arm.pause_positions == "shared")
        assert run.model_name == arm.name
        assert run.initial_checkpoint == (config.output / "import" if arm.distinct else plain_folder(config.output))
        assert [Path(path).name for path in (*run.data, *run.validation_data)] == ["train", "validation"]
    assert runs["pretrain-every1-seed1"].training.seed == 1
    assert {name for name in runs if name.endswith("plain")} == {"pretrain-plain"}, "one model for all seeds"


def test_every_arm_has_its_data_with_as_many_real_tokens(config: ReproduceConfig) -> None:
    parsed = commands(read_text_experiment(config), config)
    made: dict[str, tuple[str, int, int]] = {}
    for one in (one for one in parsed.values() if isinstance(one, PreprocessConfig)):
        for folder, insertion in one.outputs():
            count = insertion.pauses_per_token if insertion.pauses == "every" else 0
            made[str(folder.relative_to(config.output / "data"))] = (insertion.pauses, count, insertion.seq_length)
    expected = {"none": ("none", 0, 128), "every1": ("every", 1, 256), "every2": ("every", 2, 384)}
    expected["every2-distinct"] = expected["every2"]
    assert made == {f"{name}/{split}": one for name, one in expected.items() for split in ("train", "validation")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ()}, r"--text: is missing, and c4-every reads C4; give its files"),
        ({"validation_text": ()}, r"--validation-text: is missing"),
        ({"text": ("nowhere/*.gz",)}, r"--text: nowhere/\*.gz: no such file; correct the path"),
        ({"bits": 3}, r"--bits 3: c4-every has no bits"),
        ({"set": ("speed=1",)}, r"--experiment c4-every: unknown key 'speed'"),
        ({"set": ("model.max_position_embeddings=9",)}, r"model: unknown key 'max_position_embeddings'"),
        ({"set": ("continued.pause_positions=shared",)}, r"continued: pause_positions: follows from 'real_tokens' and"),
        ({"set": ("continued.seed=1",)}, r"continued: seed: other keys of the grid set it"),
        ({"set": ("plain={learning_rate: 1}",)}, r"plain: 'train_iters' is missing"),
        ({"set": ("plain.train_iters=many",)}, r"plain: train_iters: Expected `int`"),
        ({"set": ("model.num_attention_heads=5",)}, r"plain: --hidden-size 64 is not a multiple"),
        ({"set": ("tokenizer.distinct_pauses=2",)}, r"tokenizer: is trained on the text with one <pause>"),
        ({"set": ("tokenizer.size=2",)}, r"tokenizer: unknown key 'size'"),
        ({"set": ("differences=[[1 pause, none]]",)}, r"differences: unknown arm 'none'"),
        ({"set": ("arms=[]", "differences=[]")}, r"'arms' is empty"),
        ({"set": ("seeds=[]",), "seeds": ()}, r"'seeds' is empty"),
        ({"set": ("real_tokens=1",)}, r"real_tokens: 1 must be at least 2"),
        (
            {"set": ("arms=[{name: one, num_pauses: 1, distinct: true, published: ''}]",)},
            r"arms: one: num_pauses 1 must be at least 2 with 'distinct'",
        ),
        (
            {"set": ("arms=[{name: a, num_pauses: 1, published: ''}, {name: b, num_pauses: 1, published: ''}]",)},
            r"arms: a: has the name or the pauses of another arm",
        ),
    ],
)
def test_wrong_settings_are_refused(config: ReproduceConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_reproduction(replace(config, **changes))
    assert not config.output.exists(), "nothing was begun"


def test_experiments_on_tasks_take_no_text(config: ReproduceConfig) -> None:
    with pytest.raises(UserError, match=r"--text: parity reads no text, but a generated task; remove it"):
        read_experiment(replace(config, experiment="parity"))


TARGETS = (100, 300, 200)
BLOCKS = {  # losses of the blocks of each seed
    "no pauses": ((4.0, 4.5, 4.2), (4.1, 4.4, 4.3)),
    "1 pause": ((3.9, 4.45, 4.0), (4.0, 4.5, 4.1)),
}


@pytest.fixture
def experiment(config: ReproduceConfig) -> TextExperiment:
    """The experiment with two arms."""
    found = read_text_experiment(config)
    return replace(found, arms=found.arms[:2], differences=found.differences[:1])


def finish(folder: Path, blocks: tuple[float, ...], targets: tuple[int, ...] = TARGETS, *, pauses: int) -> None:
    """Write a run that was resumed after its first step."""
    write_run(folder, iterations=200)
    validation = replace(
        example(ValidationRecord),
        iteration=2,
        dataset="validation",
        loss=float(np.average(blocks, weights=targets)),
        real_tokens=sum(targets),
        block_losses=blocks,
        block_targets=targets,
    )
    steps = [
        replace(
            example(TrainRecord),
            iteration=iteration,
            steps=1,
            seconds_per_step=seconds,
            consumed_samples=iteration * 32,
            real_tokens=iteration * 4096,
            pause_tokens=iteration * 4096 * pauses,
        )
        for iteration, seconds in ((1, 9.0), (1, 2.0), (2, 3.0))
    ]
    lines = [json.dumps(line_of(one)) + "\n" for one in (*steps, validation)]
    (folder / METRICS_FILE).write_text("".join(lines))


@pytest.fixture
def record(experiment: TextExperiment, config: ReproduceConfig) -> TextReproductionRecord:
    for seed in experiment.seeds:
        for arm in experiment.arms:
            blocks = BLOCKS[arm.name][seed]
            finish(run_folder(config.output, arm, seed), blocks, pauses=arm.num_pauses)
    finish(plain_folder(config.output), (4.6, 4.8, 4.7), pauses=0)
    return collect_text_results("c4-every", experiment, config.output, ("real_tokens=128",))


def test_record_has_losses_costs_and_both_errors(record: TextReproductionRecord, tmp_path: Path) -> None:
    losses = {name: [np.average(one, weights=TARGETS) for one in seeds] for name, seeds in BLOCKS.items()}
    plain, paused = record.arms
    assert plain.losses == pytest.approx(losses["no pauses"])
    assert paused.loss == pytest.approx(np.mean(losses["1 pause"]))
    assert paused.perplexity == pytest.approx(math.exp(paused.loss))
    assert plain.seed_error == pytest.approx(stats.sem(losses["no pauses"]))
    assert (plain.real_tokens, plain.pause_tokens, paused.pause_tokens) == (8192, 0, 8192)
    assert plain.flops == 64 * 3_000_000_000
    assert plain.seconds == 5.0, "the step before the resume does not count"
    assert (record.held_out_targets, record.held_out_blocks) == (600, 3)
    assert record.plain_loss == pytest.approx(np.average((4.6, 4.8, 4.7), weights=TARGETS))
    [difference] = record.differences
    each = np.subtract(losses["1 pause"], losses["no pauses"])
    assert difference.values == pytest.approx(each)
    assert difference.seed_error == pytest.approx(stats.sem(each))
    of_blocks = np.mean(np.subtract(BLOCKS["1 pause"], BLOCKS["no pauses"]), axis=0)
    weights = np.array(TARGETS) / 600
    text_error = math.sqrt(1.5 * np.sum((weights * (of_blocks - weights @ of_blocks)) ** 2))
    assert difference.text_error == pytest.approx(text_error)
    errors, freedom = np.array([text_error, stats.sem(each)]), np.array([2, 1])
    welch = (errors**2).sum() ** 2 / (errors**4 / freedom).sum()
    expected = stats.t.interval(0.95, welch, loc=each.mean(), scale=np.sqrt((errors**2).sum()))
    assert difference.interval is not None
    assert astuple(difference.interval) == pytest.approx(expected)
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json", TextReproductionRecord) == record


def test_table_puts_the_published_numbers_beside_ours(record: TextReproductionRecord) -> None:
    lines = text_markdown(record).splitlines()
    [row] = [line for line in lines if line.startswith("| 1 pause |")]
    assert row == "| 1 pause | 4.2083, 4.2833 | 4.2458 | 0.0375 | 69.81 | 14.92 | 0.02M | 1.92e+11 | 5 |"
    [row] = [line for line in lines if line.startswith("| 1 pause - no pauses |")]
    assert row.startswith("| 1 pause - no pauses | -0.1083, -0.0333 | -0.0708 | 0.0791 | 0.0375 | ")
    assert row.endswith(" | -6.8 % |")
    assert record.meaning in lines
    assert "- Changed for this run: real_tokens=128." in lines


def test_one_seed_has_no_error_over_seeds(
    record: TextReproductionRecord, experiment: TextExperiment, config: ReproduceConfig
) -> None:
    alone = collect_text_results("c4-every", replace(experiment, seeds=(0,)), config.output)
    [difference] = alone.differences
    assert (difference.seed_error, alone.arms[0].seed_error) == (None, None)
    assert difference.text_error is not None
    assert "| 1 pause | 4.2083 | 4.2083 | - |" in text_markdown(alone)


def test_arms_on_other_text_are_not_compared(
    record: TextReproductionRecord, experiment: TextExperiment, config: ReproduceConfig
) -> None:
    folder = run_folder(config.output, experiment.arms[1], 1)
    shutil.rmtree(folder)
    finish(folder, BLOCKS["1 pause"][1], (300, 100, 200), pauses=1)
    with pytest.raises(UserError, match="arms read other real tokens, so they cannot be compared"):
        collect_text_results("c4-every", experiment, config.output)
    lines = (folder / METRICS_FILE).read_text().splitlines(keepends=True)
    (folder / METRICS_FILE).write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="has no validation after its last step; remove the folder"):
        collect_text_results("c4-every", experiment, config.output)


def reproduce(corpus: Path, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pause_megatron", "reproduce", "c4-every", "--output", str(output), "--jobs", "2"]
    command += ["--text", str(corpus / "*train*"), "--validation-text", str(corpus / "*validation*")]
    return subprocess.run([*command, "--set", *TINY, *flags], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_experiment_runs_to_its_table_and_takes_another_seed_later(tmp_path: Path) -> None:
    output, corpus = tmp_path / "out", tmp_path / "corpus"
    write_pydoc_corpus(corpus)
    done = reproduce(corpus, output, "--seeds", "0")
    assert done.returncode == EXIT_DONE, done.stderr[-3000:]
    assert "| 2 distinct pauses |" in done.stdout
    times = {path: path.stat().st_mtime_ns for path in output.rglob("manifest.json")}
    last = output / "runs" / "every1-seed0" / "checkpoints"
    shutil.rmtree(last)  # as if the run had been killed before its first checkpoint
    assert reproduce(corpus, output, "--seeds", "0", "1").returncode == EXIT_DONE
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if last not in path.parents)
    record = read_record(output / TextReproductionRecord.FILE, TextReproductionRecord)
    assert [len(arm.losses) for arm in record.arms] == [2] * 6
    assert {arm.real_tokens for arm in record.arms} == {3 * 4 * 16}
    assert [arm.pause_tokens for arm in record.arms] == [192 * count for count in (0, 1, 1, 2, 2, 2)]
    for arm in record.arms:
        folders = [path for path in (output / "runs").iterdir()
                   if path.name != "plain" and read_record(path / "run.json", RunRecord).model == arm.name]  # fmt: skip
        assert sorted(arm.losses) == sorted(_last_loss(folder) for folder in folders)
    values = json.loads((output / "report" / "report.json").read_text(encoding="utf-8"))
    assert [one["seeds"] for one in values["reproductions"]] == [[0, 1]]
    page = (output / "report" / "report.html").read_text(encoding="utf-8")
    assert "Published experiments, repeated" in page
    assert "text with and without pauses" in page
    other = reproduce(corpus, output, "real_tokens=32")
    assert "holds an experiment with another 'real_tokens' than" in other.stderr


def _last_loss(folder: Path) -> float:
    lines = read_json_lines(folder / METRICS_FILE)
    return float(next(line["loss"] for line in reversed(lines) if line["kind"] == "validation"))
