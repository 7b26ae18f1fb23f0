"""The record of pretraining survives an import and an export, and decides whether pauses can be baked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST, read_manifest
from pause_megatron.config.conversion import ConvertFromHfConfig, ConvertToHfConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.conversion.from_hf import convert_from_hf
from pause_megatron.conversion.to_hf import convert_to_hf
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.errors import UserError
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_record, write_record
from pause_megatron.records.finetuning import FinetuneRecord
from tests.distributed import run_distributed
from tests.records.examples import example

EVERY = {"strategy": "every", "pause_rate": 2.0, "pauses_per_token": 2, "pause_interval": 3}
SETTINGS = {"model_name": "every2", "training": {"seed": 5, "pause_inputs": "repeat"}}


def trained(checkpoint: Path, output: Path, data: dict[str, Any], config: dict[str, Any]) -> Path:
    """A copy of ``checkpoint`` as if pretraining on such data had written it."""
    shutil.copytree(checkpoint, output)
    manifest = read_manifest(output)
    state = manifest.state
    state |= {"dataset": state["dataset"] | data, "config": state["config"] | config}
    state |= {"iteration": 7, "consumed_samples": 28, "real_tokens": 800, "pause_tokens": 600}
    (output / MANIFEST).write_text(json.dumps(manifest.to_plain()))
    return output


def convert_in_turns(model: Path, folder: Path) -> None:
    """Import, export, and both again; in a child process, which imports the libraries once."""

    def imported(source: Path, name: str) -> Path:
        convert_from_hf(ConvertFromHfConfig(model=source, output=folder / name))
        return folder / name

    def exported(checkpoint: Path, name: str, **settings: Any) -> Path:
        convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=folder / name, **settings))
        return folder / name

    start = imported(model, "start")
    first = exported(trained(start, folder / "every", EVERY, SETTINGS), "first")
    exported(imported(first, "again"), "second")

    record = read_record(first / ExportRecord.FILE, ExportRecord)
    finetuned = shutil.copytree(first, folder / "finetuned")
    settings = {"task": "parity", "pretraining": record.pretraining, "files": record.files}
    write_record(finetuned / FinetuneRecord.FILE, replace(example(FinetuneRecord), **settings))
    exported(imported(finetuned, "from-finetuned"), "third")

    shared = shutil.copytree(first, folder / "shares")
    (shared / ExportRecord.FILE).unlink()
    config = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps({**config, "pause_positions": "shared"}))
    imported(shared, "shared")

    blend = {"strategy": "every+sequence", "pause_rate": 1.0, "rates": "drawn"}
    exported(trained(start, folder / "blend", blend, {}), "baked", bake_pauses=3)


@pytest.fixture(scope="module")
def folders(foreign: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversions")
    run_distributed(convert_in_turns, 1, foreign("llama"), folder)
    return folder


def record_of(folder: Path) -> ExportRecord:
    return read_record(folder / ExportRecord.FILE, ExportRecord)


def test_an_imported_export_is_exported_with_the_record_of_its_pretraining(folders: Path) -> None:
    first, second = (record_of(folders / name).pretraining for name in ("first", "second"))
    assert (first.model_name, first.seed, first.pauses_per_token, first.pause_interval) == ("every2", 5, 2, 3)
    assert second == first
    pausings = [resolve_pausing(load_model_folder(folders / name), InferencePausing()) for name in ("first", "second")]
    assert pausings[0] == pausings[1]
    assert (pausings[1].placement, pausings[1].num_pauses, pausings[1].interval) == ("every", 2, 3)
    card = (folders / "second" / "README.md").read_text()
    assert "2 of them followed every 3 tokens" in card
    assert "- Data: not known, because an import does not record it." in card


def test_a_finetuned_model_is_imported_with_its_pretraining(folders: Path) -> None:
    assert record_of(folders / "third").pretraining == record_of(folders / "first").pretraining


def test_a_file_that_differs_from_its_checksum_is_not_imported(folders: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folders / "first", tmp_path / "hf")
    with (damaged / "generation_config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"generation_config.json: damaged or changed"):
        convert_from_hf(ConvertFromHfConfig(model=damaged, output=tmp_path / "again"))


CANNOT_BE_BAKED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "every": (EVERY, {}, "has pauses after every token in training"),
    "blend": ({"strategy": "every+none", "pause_rate": 1.0}, {}, "has pauses after every token in training"),
    "repeat": ({"strategy": "sequence", "pause_rate": 0.1}, SETTINGS, "reads other tokens in place of"),
}


@pytest.mark.parametrize("name", CANNOT_BE_BAKED)
def test_pauses_are_not_baked_if_other_programs_could_not_pause_as_in_training(
    folders: Path, name: str, tmp_path: Path
) -> None:
    data, config, problem = CANNOT_BE_BAKED[name]
    checkpoint = trained(folders / "start", tmp_path / "run", data, config)
    with pytest.raises(UserError, match=rf"--bake-pauses 3: the model {problem}.* use `pause-megatron generate`"):
        convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=tmp_path / "hf", bake_pauses=3))
    assert not (tmp_path / "hf").exists()


def test_pauses_are_not_baked_if_they_share_positions(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--bake-pauses 3: the model shares the positions of pauses"):
        convert_to_hf(ConvertToHfConfig(checkpoint=folders / "shared", output=tmp_path / "hf", bake_pauses=3))


def test_pauses_are_baked_if_some_of_the_data_had_them_at_random_places(folders: Path) -> None:
    assert record_of(folders / "baked").tokenizer.baked_pauses == 3


def test_the_model_card_says_that_rates_were_drawn(folders: Path) -> None:
    assert record_of(folders / "baked").pretraining.rates == "drawn"
    card = (folders / "baked" / "README.md").read_text()
    assert "1 per real token on average: each has a rate of its own, drawn from 0 to twice the mean." in card
    assert "drawn" not in (folders / "first" / "README.md").read_text()
