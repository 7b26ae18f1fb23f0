"""Models that cannot be compared are refused before the first job of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.experiments import GridConfig
from pause_megatron.errors import UserError
from pause_megatron.experiments.grid import run_grid
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import write_record
from pause_megatron.tokenizer import PauseTokenizer
from tests.chain import write_dataset, write_text_and_tokenizer
from tests.records.examples import example

from .grids import jobs_of, write_grid
from .studies import TRAIN, by_name, run_of, study


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


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"pauses": "every", "pauses_per_token": 1}, "has pauses after every token"),
        ({"pauses": "sequence", "train": {"pause_inputs": "repeat"}}, "reads other tokens in place of <pause>"),
        ({"pauses": "sequence", "train": {"filler": "."}}, "reads other tokens in place of <pause>"),
        ({"pauses": "sequence", "train": {"pause_positions": "shared"}}, "shares the positions of pauses"),
    ],
    ids=["every", "repeat", "filler", "shared"],
)
def test_pauses_that_cannot_be_baked_are_refused_before_the_training(
    model: dict[str, Any], problem: str, prepared: Path, tmp_path: Path
) -> None:
    changes = {"models": {"plain": {"pauses": "none"}, "other": model}, "export": {"bake_pauses": 4}}
    assert f"export: bake_pauses: 4: the model other {problem}" in refusal(prepared, tmp_path, **changes)


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
