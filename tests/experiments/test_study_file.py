"""Studies: the key ``pretrain`` of a grid file becomes jobs, and models that cannot be compared are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.cli.commands import COMMANDS
from pause_megatron.cli.flags import parse
from pause_megatron.config.dataset import MergeDatasetsConfig, VerifyDatasetConfig
from pause_megatron.config.experiments import GridConfig
from pause_megatron.config.preprocess import PreprocessConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.report import ReportConfig
from pause_megatron.costs.flops import training_flops
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid import run_grid
from pause_megatron.experiments.job import STAGES, Job
from pause_megatron.experiments.study_budget import real_share
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import write_record
from pause_megatron.tokenizer import PauseTokenizer
from tests.chain import write_dataset, write_text_and_tokenizer
from tests.downstream.real_samples import FOLDERS
from tests.records.examples import example

from .grids import jobs_of, names_of, write_grid

TRAIN = {"deepspeed": "ds_configs/zero1_fp32.json", "train_iters": 100, "global_batch_size": 8}
STUDY: dict[str, Any] = {
    "pretrain": {
        "text": "corpus/*train*",
        "models": {"stdpt": {"pauses": "none"}, "tenth": {"pauses": "sequence", "pause_rate": 0.1}},
        "preprocess": {"seq_length": 64},
        "sizes": ["tiny"],
        "seeds": [3, 4],
        "train": TRAIN,
    },
    "tasks": {"parity": "tasks/parity"},
    "num_pauses_ft": [0],
}


def study(folder: Path, *, grid: dict[str, Any] | None = None, **changes: Any) -> GridConfig:
    """Write :data:`STUDY` with other keys of ``pretrain`` and of the file."""
    keys = {**STUDY, "pretrain": {**STUDY["pretrain"], **changes}, **(grid or {})}
    return GridConfig(grid=str(write_grid(folder, **keys)), output=folder / "out")


def by_name(jobs: list[Job]) -> dict[str, Job]:
    return {job.name: job for job in jobs}


def parsed(job: Job) -> Any:
    """Parse the job's command line, as its process does."""
    command, *flags = job.arguments()
    return parse(COMMANDS[command].config_class(), command, flags)


def run_of(job: Job) -> PretrainConfig:
    [config] = job.outputs
    assert isinstance(config, PretrainConfig)
    return config


# Jobs


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


@pytest.mark.parametrize("name", ["paper-130m", "paper-1b", "paper-1b-pauses", "paper-1b-placement", "rivals"])
def test_preset_pretrains_from_several_seeds(name: str, tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    config = GridConfig(grid=name, data=tmp_path, output=tmp_path / "out", set=("pretrain.text=c4/*.gz",))
    jobs = jobs_of(config)
    runs = [run_of(job) for job in jobs if job.stage == "pretrain"]
    assert {run.training.seed for run in runs} == {0, 1, 2}
    assert all(run.deepspeed.is_file() for run in runs)
    models = {run.model_name: run for run in runs}
    assert list(models) == (
        ["plain", "pauses10", "every1", "repeat1", "deeper"] if name == "rivals" else ["stdpt", "pausept"]
    )
    assert len({job.name for job in jobs}) == len(jobs)
    with pytest.raises(UserError, match=r"'text' is missing; .*--set pretrain.text=FILES"):
        jobs_of(replace(config, set=()))


def test_rivals_read_the_same_text_at_the_cost_that_they_claim(tmp_path: Path) -> None:
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    config = GridConfig(grid="rivals", data=tmp_path, output=tmp_path / "out", set=("pretrain.text=c4/*.gz",))
    runs = {run_of(job).model_name: run_of(job) for job in jobs_of(config) if job.stage == "pretrain"}

    def cost(name: str) -> float:
        flops = training_flops(runs[name].model, vocab_size=32_256, seq_length=2048)
        return runs[name].training.train_iters * flops.model

    assert runs["every1"].training.train_iters == runs["repeat1"].training.train_iters == 2 * 19_074
    assert runs["plain"].training.train_iters == runs["deeper"].training.train_iters == 19_074
    assert runs["pauses10"].training.train_iters == pytest.approx(19_074 * 1.0996, rel=1e-3)
    assert runs["repeat1"].training.pause_inputs == "repeat"
    assert cost("deeper") == pytest.approx(cost("every1"), rel=0.02)
    one_layer = (cost("deeper") - cost("plain")) / 14
    assert abs(cost("deeper") - cost("every1")) < one_layer / 2  # no other number of layers is closer


def test_share_of_real_tokens_is_that_of_the_data(tmp_path: Path) -> None:
    from pause_megatron.config.preprocess import InsertionConfig
    from pause_megatron.config.study import StudyModel

    write_text_and_tokenizer(tmp_path)
    settings: list[dict[str, Any]] = [
        *({"pauses": "none"}, {"pauses": "sequence", "pause_rate": 0.3}, {"pauses": "document", "pause_rate": 0.3}),
        {"pauses": "every", "pauses_per_token": 3},
    ]
    for number, insertion in enumerate(settings):
        data = write_dataset(tmp_path, f"data{number}", **insertion)
        expected = real_share(StudyModel(data=data))
        found = real_share(StudyModel(insertion=InsertionConfig(seq_length=64, **insertion)))
        assert found == pytest.approx(expected, rel=0.01), insertion


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, r"pretrain: unknown key 'sedes'; did you mean 'seeds'"),
        ({"models": None}, r"pretrain: 'models' is missing; add it, for example 'stdpt: \{pauses: none\}'"),
        ({"models": {"a": {}}}, r"models: a: needs either 'pauses' or 'data'"),
        ({"models": {"a": {"pauses": "often"}}}, r"models: a: pauses: Invalid enum value 'often'"),
        ({"models": {"a": {"pauses": "none", "pause_rate": 0.1}}}, r"a: pause_rate: not used by 'pauses: none'"),
        ({"models": {"a": {"pauses": "sequence", "pause_rate": 2}}}, r"a: --pause-rate 2.*: must be below 1"),
        ({"models": {"a": {"pauses": "every", "pauses_per_token": 2}}}, r"a: --pauses-per-token 2: .*multiple of 3"),
        ({"models": {"a": {"pauses": "none"}, "b": {"pauses": "none"}}}, r"b: has the same data and settings as a"),
        ({"models": {"a/b": {"pauses": "none"}}}, r"models: 'a/b' cannot be part of file names"),
        ({"models": {"a": {"data": "x", "gaps": "repeat"}}}, r"a: gaps: not used with 'data'"),
        ({"sizes": ["huge"]}, r"sizes: unknown preset 'huge'; choose from .*130m"),
        ({"sizes": {"mine": {"layers": 2}}}, r"sizes: mine: unknown key 'layers'"),
        ({"train": {"train_iters": 5}}, r"train: 'deepspeed' is missing"),
        ({"train": {**TRAIN, "seed": 5}}, r"train: seed: other keys of the grid set it"),
        ({"train": {**TRAIN, "micro_batch_size": 0}}, r"stdpt of size tiny: --micro-batch-size 0: must be at least 1"),
        ({"preprocess": {"pauses": "none"}}, r"preprocess: pauses: other keys of the grid set it"),
        ({"tokenizer": {"vocabulary": 5}}, r"tokenizer: unknown key 'vocabulary'"),
        ({"export": {"dtype": "int3"}}, r"export: dtype: Invalid enum value 'int3'"),
        ({"text": []}, r"pretrain: 'text' is missing"),
        ({"seeds": []}, r"pretrain: 'seeds' is empty"),
        ({"processes": 0}, r"pretrain: parts, processes: must be at least 1"),
        ({"preprocess": {"seq_length": 512}}, r"stdpt of size tiny: .*512 tokens.*max_position_embeddings.*256"),
    ],
)
def test_wrong_study_is_refused_by_file_and_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = study(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as refused:
        jobs_of(config)
    assert str(refused.value).startswith(f"--grid {config.grid}: pretrain")


def model(**train: Any) -> dict[str, Any]:
    return {"models": {**STUDY["pretrain"]["models"], "other": {"pauses": "none", "train": train}}}


def test_models_with_other_budgets_are_refused(tmp_path: Path) -> None:
    message = (
        r"models: other of size tiny: trains on 102,400 tokens, but stdpt trains on 51,200 tokens; .*'equal: nothing'"
    )
    with pytest.raises(UserError, match=message):
        jobs_of(study(tmp_path, **model(train_iters=200)))
    jobs_of(study(tmp_path, **model(train_iters=200, global_batch_size=4)))
    jobs_of(study(tmp_path, **model(train_iters=200), grid={"equal": "nothing"}))
    with pytest.raises(UserError, match=r"tenth of size tiny: trains on .* real tokens, but stdpt"):
        models = {"stdpt": {"pauses": "none"}, "tenth": {"pauses": "sequence", "train": {"train_iters": 100}}}
        jobs_of(study(tmp_path, models=models, grid={"equal": "real_tokens"}))
    with pytest.raises(UserError, match=r"Invalid enum value 'flops' - at `\$.equal`"):
        jobs_of(study(tmp_path, grid={"equal": "flops"}))


def test_equal_real_tokens_lengthen_the_runs_with_pauses(tmp_path: Path) -> None:
    models = {"stdpt": {"pauses": "none"}, "every": {"pauses": "every", "pauses_per_token": 3}}
    models |= {"ramped": {"pauses": "every", "train": {"rampup_batch_size": [2, 2, 60]}}}
    jobs = by_name(jobs_of(study(tmp_path, models=models, grid={"equal": "real_tokens"})))
    steps = {name: run_of(jobs[f"pretrain-{name}-pt3-tiny"]).training.train_iters for name in models}
    assert steps["stdpt"] == 100
    assert steps["every"] == 400
    assert steps["ramped"] == (10 + 5 + 4) + (1600 - 64) / 8  # steps of 2, 4 and 6 sequences, and then of 8
    equal_tokens = by_name(jobs_of(study(tmp_path, models={name: models[name] for name in ("stdpt", "every")})))
    assert run_of(equal_tokens["pretrain-every-pt3-tiny"]).training.train_iters == 100


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, a tokenizer, datasets, and folders of tasks."""
    folder = tmp_path_factory.mktemp("prepared")
    write_text_and_tokenizer(folder)
    write_dataset(folder, "standard", pauses="none")
    write_dataset(folder, "pause")
    write_dataset(folder, "short", seq_length=32)
    write_dataset(folder, "other-text", "validation")
    (folder / "parity").mkdir()
    return folder


def refusal(prepared: Path, folder: Path, *, given: dict[str, str] | None = None, **changes: Any) -> str:
    """The error of a study on the ``prepared`` files, with the exported models ``given``; nothing may be written."""
    keys = {"tokenizer": str(prepared / "tokenizer"), "text": str(prepared / "corpus" / "*train*"), **changes}
    grid = {"tasks": {"parity": str(prepared / "parity")}, "models": given or {}}
    config = study(folder, grid=grid, **keys)
    with pytest.raises(UserError) as refused:
        run_grid(config)
    assert not config.output.exists()
    return str(refused.value)


def data(prepared: Path, *names: str) -> dict[str, Any]:
    return {"models": {name: {"data": str(prepared / name)} for name in names}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda prepared: data(prepared, "standard", "short"), "short of size tiny: reads sequences of 32 tokens"),
        (
            lambda prepared: data(prepared, "standard", "other-text"),
            "models: other-text: its data was made from other text than that of models: standard",
        ),
        (lambda prepared: {"text": "nowhere/*.gz"}, "text: "),
        (lambda prepared: {"tokenizer": "nowhere"}, "nowhere does not exist; correct the path"),
        (lambda prepared: {"train": {**TRAIN, "deepspeed": "nowhere.json"}}, "nowhere.json does not exist"),
    ],
)
def test_inputs_that_cannot_be_compared_are_refused_before_the_first_job(
    changes: Callable[[Path], dict[str, Any]], message: str, prepared: Path, tmp_path: Path
) -> None:
    assert message in refusal(prepared, tmp_path, **changes(prepared))


def test_given_models_must_have_the_budget_of_the_study(prepared: Path, tmp_path: Path) -> None:
    base = example(ExportRecord)
    size = run_of(by_name(jobs_of(study(tmp_path)))["pretrain-stdpt-pt3-tiny"]).model.non_embedding_parameters
    pretraining = replace(base.pretraining, seq_length=64, non_embedding_parameters=size)
    pretraining = replace(pretraining, real_tokens=900, pause_tokens=100)
    tokenizer = replace(base.tokenizer, sha256=PauseTokenizer.load(prepared / "tokenizer").sha256)
    (folder := tmp_path / "old").mkdir()
    (folder / "config.json").touch()
    write_record(folder / ExportRecord.FILE, replace(base, pretraining=pretraining, tokenizer=tokenizer))
    message = "models: stdpt of size tiny: was pretrained with 51,200 tokens instead of 1,000, unlike models: old"
    assert message in refusal(prepared, tmp_path, given={"old": str(folder)})


def test_another_tokenizer_than_that_of_the_data_is_refused(prepared: Path, tmp_path: Path) -> None:
    from pause_megatron.config.tokenizer import TokenizerConfig
    from pause_megatron.tokenizer.make_tokenizer import train_tokenizer

    text = (str(prepared / "corpus" / "*train*"),)
    train_tokenizer(TokenizerConfig(input=text, output=tmp_path / "tokenizer", vocab_size=400))
    changes = {"tokenizer": str(tmp_path / "tokenizer"), **data(prepared, "standard", "pause")}
    assert "models: standard: its data has another tokenizer than" in refusal(prepared, tmp_path, **changes)


def test_given_models_that_saw_other_data_are_refused(tmp_path: Path) -> None:
    """Models of this project must have one tokenizer, one length and as many tokens or as many real tokens."""
    base = example(ExportRecord)
    base = replace(base, pretraining=replace(base.pretraining, real_tokens=900, pause_tokens=100, seq_length=64))
    changes: dict[str, ExportRecord] = {
        "same": base,
        "same-tokens": replace(base, pretraining=replace(base.pretraining, real_tokens=1000, pause_tokens=0)),
        "same-real-tokens": replace(base, pretraining=replace(base.pretraining, pause_tokens=900)),
        "larger": replace(base, pretraining=replace(base.pretraining, real_tokens=9000, non_embedding_parameters=9)),
        "tokenizer": replace(base, tokenizer=replace(base.tokenizer, sha256="other")),
        "length": replace(base, pretraining=replace(base.pretraining, seq_length=128)),
        "tokens": replace(base, pretraining=replace(base.pretraining, real_tokens=1800)),
    }
    (tmp_path / "parity").mkdir()
    for name, record in {"base": base, **changes}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        write_record(tmp_path / name / ExportRecord.FILE, record)

    def config(name: str, **keys: Any) -> GridConfig:
        models = {"base": str(tmp_path / "base"), name: str(tmp_path / name)}
        keys = {"models": models, "tasks": {"parity": str(tmp_path / "parity")}, "num_pauses_ft": [0], **keys}
        return GridConfig(grid=str(write_grid(tmp_path, **keys)), output=tmp_path / "out")

    for name, problem in {
        "tokenizer": "another tokenizer",
        "length": "another seq_length",
        "tokens": "1,900 tokens instead of 1,000",
    }.items():
        with pytest.raises(UserError, match=f"models: {name}: was pretrained with {problem}, unlike models: base"):
            run_grid(config(name))
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()  # so that the grid stops after its checks
    for name in ("same", "same-tokens", "same-real-tokens", "larger"):
        with pytest.raises(UserError, match="is not a grid folder"):
            run_grid(config(name))
    with pytest.raises(UserError, match="is not a grid folder"):
        run_grid(config("tokens", equal="nothing"))
    with pytest.raises(UserError, match="1,000 real tokens instead of 900"):
        run_grid(config("same-tokens", equal="real_tokens"))
