"""A study becomes jobs: their order, command lines and settings, and the presets that are studies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.config.dataset import MergeDatasetsConfig, VerifyDatasetConfig
from pause_megatron.config.experiments import GridConfig
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.config.report import ReportConfig
from pause_megatron.costs.flops import training_flops
from pause_megatron.errors import UserError
from pause_megatron.experiments.job import STAGES
from tests.downstream.real_samples import FOLDERS

from .grids import jobs_of, names_of
from .studies import STUDY, by_name, parsed, run_of, study


def test_study_becomes_jobs_each_after_those_it_needs(tmp_path: Path) -> None:
    jobs = jobs_of(study(tmp_path, validation_text="corpus/*validation*"))
    assert names_of(jobs) == [
        *("tokenizer", "preprocess-train", "verify-train-none", "verify-train-sequence-0.1"),
        *("preprocess-validation", "verify-validation-none", "verify-validation-sequence-0.1"),
        *(
            f"{stage}-{model}-pt{seed}-tiny"
            for seed in (3, 4)
            for model in ("stdpt", "tenth")
            for stage in ("pretrain", "export")
        ),
        *(
            f"{command}-parity-{model}-pt{seed}-tiny-ft0-seed0"
            for seed in (3, 4)
            for model in ("stdpt", "tenth")
            for command in ("finetune", "evaluate")
        ),
        "report",
    ]
    known: set[str] = set()
    for job in jobs:
        assert known.issuperset(job.needs), job.name
        known.add(job.name)
    found = by_name(jobs)
    assert found["verify-train-sequence-0.1"].needs == ("preprocess-train",)
    assert found["pretrain-tenth-pt3-tiny"].needs == (
        *("verify-train-sequence-0.1", "verify-validation-none", "verify-validation-sequence-0.1"),
    )
    assert found["finetune-parity-tenth-pt3-tiny-ft0-seed0"].needs == ("export-tenth-pt3-tiny",)
    assert found["report"].needs == tuple(job.name for job in jobs if job.stage == "evaluate")
    assert {job.stage for job in jobs} == set(STAGES.values()) - {"merge"}


def test_command_lines_parse_to_the_configurations(tmp_path: Path) -> None:
    models = {**STUDY["pretrain"]["models"], "every": {"pauses": "every", "train": {"learning_rate": "1e-4"}}}
    sizes = {"tiny": None, "small": {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2}}
    jobs = jobs_of(study(tmp_path, models=models, sizes=sizes, merge=2, parts=3, validation_text="v", processes=2))
    for job in jobs:
        if job.stage not in ("preprocess", "evaluate"):
            assert (parsed(job),) == job.outputs, job.name
    found = by_name(jobs)
    config: PreprocessConfig = parsed(found["preprocess-train-1"])
    assert config.shard_range == "1/3"
    assert [config.shard_indices(8) for config in (replace(config, shard_range=f"{part}/3") for part in range(3))] == [
        *(range(2), range(2, 5), range(5, 8))
    ]
    outputs = {made.output: made.insertion for made in found["preprocess-train-1"].outputs}  # type: ignore[union-attr]
    assert dict(config.outputs()) == outputs
    assert [folder.name for folder in outputs] == ["train-none", "train-sequence-0.1", "train-every-1"]
    assert found["preprocess-train"].needs == ("tokenizer", *(f"preprocess-train-{part}" for part in range(3)))
    [merge] = found["merge-every-1"].outputs
    [verify] = found["verify-train-every-1"].outputs
    assert isinstance(merge, MergeDatasetsConfig)
    assert isinstance(verify, VerifyDatasetConfig)
    assert (verify.data.name, verify.standard and verify.standard.name) == ("train-every-1-merged", "train-none-merged")
    run = run_of(found["pretrain-every-pt3-small"])
    assert run.data == (str(merge.output),)
    assert (run.model_name, run.training.seed, run.optimizer.learning_rate) == ("every", 3, 1e-4)
    assert (run.model.num_layers, run.model.hidden_size) == (1, 32)
    assert [Path(folder).name for folder in run.validation_data] == [
        *("validation-none", "validation-sequence-0.1", "validation-every-1")
    ]
    assert found["pretrain-every-pt3-small"].words()[-2:] == ["--processes", "2"]
    assert "--processes" not in found["pretrain-every-pt3-small"].words(starts_ranks=False)


def test_each_size_has_a_report_of_its_own(tmp_path: Path) -> None:
    """Models of different sizes are not compared; models that are given belong to every report."""
    sizes = {"tiny": None, "small": {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2}}
    grid = {"models": {"given-ftp": "hf/given"}, "num_pauses_ft": [0, 2]}
    jobs = jobs_of(study(tmp_path, sizes=sizes, grid=grid))
    reports = [job for job in jobs if job.stage == "report"]
    assert names_of(reports) == ["report-tiny", "report-small"]
    for job, size in zip(reports, sizes, strict=True):
        [config] = job.outputs
        assert isinstance(config, ReportConfig)
        assert config.output == tmp_path / "out" / "report" / size
        runs = [f"{name}-pt{seed}-{size}" for seed in (3, 4) for name in ("stdpt", "tenth")]
        assert [path.name for path in config.pretrain] == runs
        models = ["given-ftp", *runs]
        assert sorted(path.name for path in config.evaluations) == sorted(
            f"{model}-ft{pauses}-inf{pauses}-seed0.json" for model in models for pauses in (0, 2)
        )
        assert len(job.needs) == len(config.evaluations)


def test_a_finished_dataset_is_not_made_again_with_the_others(tmp_path: Path) -> None:
    job = by_name(jobs_of(study(tmp_path)))["preprocess-train"]
    first, second = job.outputs
    assert isinstance(first, PreprocessConfig)
    first.output.mkdir(parents=True)
    (first.output / "dataset.json").touch()
    assert parsed(job) == second


def test_values_of_the_file_can_be_set_on_the_command_line(tmp_path: Path) -> None:
    values = (
        "pretrain.train.train_iters=7",
        "pretrain.seeds=[5]",
        "pretrain.models.tenth.pause_rate=0.2",
        "seeds=[1, 2]",
    )
    jobs = by_name(jobs_of(replace(study(tmp_path), set=values)))
    assert run_of(jobs["pretrain-tenth-pt5-tiny"]).training.train_iters == 7
    assert "verify-train-sequence-0.2" in jobs
    assert "finetune-parity-stdpt-pt5-tiny-ft0-seed2" in jobs
    for value, message in (
        ("pretrain.text.x=1", r"--set pretrain.text.x=1: 'text' holds a str; set it directly"),
        ("seeds=[", r"--set seeds=\[: not YAML"),
        ("pretrain.seedz=1", r"pretrain: unknown key 'seedz'; did you mean 'seeds'"),
    ):
        with pytest.raises(UserError, match=message):
            jobs_of(replace(study(tmp_path), set=(value,)))
    with pytest.raises(UserError, match="--set seeds: write it as KEY=VALUE"):
        GridConfig(grid="smoke", output=tmp_path, set=("seeds",))


def test_given_models_replace_those_to_pretrain(tmp_path: Path) -> None:
    jobs = jobs_of(replace(study(tmp_path), models=("mine=hf/mine",)))
    assert names_of(jobs) == ["finetune-parity-mine-ft0-seed0", "evaluate-parity-mine-ft0-seed0"]


@pytest.mark.parametrize(
    "name", ["paper-130m", "paper-1b", "paper-1b-pauses", "paper-1b-placement", "rivals", "rivals-tiny"]
)
def test_preset_pretrains_from_several_seeds(name: str, tmp_path: Path) -> None:
    for folder in (*FOLDERS.values(), "parity"):
        (tmp_path / folder).mkdir(exist_ok=True)
    config = GridConfig(grid=name, data=tmp_path, output=tmp_path / "out", set=("pretrain.text=c4/*.gz",))
    jobs = jobs_of(config)
    runs = [run_of(job) for job in jobs if job.stage == "pretrain"]
    assert {run.training.seed for run in runs} == {0, 1, 2}
    assert all(run.deepspeed.is_file() for run in runs)
    models = {run.model_name: run for run in runs}
    assert list(models) == (
        ["plain", "pauses10", "every1", "repeat1", "deeper"] if name.startswith("rivals") else ["stdpt", "pausept"]
    )
    assert len({job.name for job in jobs}) == len(jobs)
    with pytest.raises(UserError, match=r"'text' is missing; .*--set pretrain.text=FILES"):
        jobs_of(replace(config, set=()))


@pytest.mark.parametrize(
    ("name", "steps", "vocab_size", "seq_length"), [("rivals", 19_074, 32_256, 2048), ("rivals-tiny", 400, 1024, 256)]
)
def test_rivals_read_the_same_text_at_the_cost_that_they_claim(
    name: str, steps: int, vocab_size: int, seq_length: int, tmp_path: Path
) -> None:
    for folder in (*FOLDERS.values(), "parity"):
        (tmp_path / folder).mkdir(exist_ok=True)
    config = GridConfig(grid=name, data=tmp_path, output=tmp_path / "out", set=("pretrain.text=c4/*.gz",))
    runs = {run_of(job).model_name: run_of(job) for job in jobs_of(config) if job.stage == "pretrain"}

    def cost(model: str) -> float:
        flops = training_flops(runs[model].model, vocab_size=vocab_size, seq_length=seq_length)
        return runs[model].training.train_iters * flops.model

    assert runs["every1"].training.train_iters == runs["repeat1"].training.train_iters == 2 * steps
    assert runs["plain"].training.train_iters == runs["deeper"].training.train_iters == steps
    assert runs["pauses10"].training.train_iters == pytest.approx(steps * 1.0996, rel=2e-3)
    assert runs["repeat1"].training.pause_inputs == "repeat"
    more_layers = runs["deeper"].model.num_layers - runs["plain"].model.num_layers
    one_layer = (cost("deeper") - cost("plain")) / more_layers
    assert abs(cost("deeper") - cost("every1")) < one_layer / 2  # no other number of layers is closer
