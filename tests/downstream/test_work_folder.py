"""An interrupted finetuning ends as an undisturbed one, whatever happened to its hidden folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from transformers import Trainer

from pause_megatron.checkpoint.checkpoint_manifest import checksum
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.errors import UserError
from pause_megatron.locks import LOCK_FILE, sole_owner
from tests.disk import small_disk


@dataclass(frozen=True)
class Interrupted:
    """A run that was interrupted after its second state."""

    config: FinetuneConfig
    saved: Path
    """Copy of its work folder."""
    whole: Path
    """Output of the run to which nothing happened."""


class InterruptionError(Exception):
    pass


def interrupt(config: FinetuneConfig) -> None:
    """Finetune until step 5."""
    training_step = Trainer.training_step

    def dying(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise InterruptionError
        return training_step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", dying)
        with pytest.raises(InterruptionError):
            finetune(config)


@pytest.fixture(scope="module")
def interrupted(model_path, parity_data, tmp_path_factory) -> Interrupted:
    root = tmp_path_factory.mktemp("interrupted")
    config = FinetuneConfig(
        model=model_path("gpt2"),
        task="parity",
        data=parity_data,
        output=root / "run" / "finetuned",
        pausing=FinetunePausing(num_pauses_ft=2),
        steps=6,
        batch_size=8,
        warmup_steps=2,
        learning_rate=1e-3,
        schedule="constant",
        log_interval=1,
        save_interval=2,
    )
    finetune(replace(config, output=root / "whole"))
    interrupt(config)
    assert sorted(path.name for path in config.work_folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    return Interrupted(config, shutil.copytree(config.work_folder, root / "saved"), root / "whole")


def zero_second_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 8
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0\xff{]")


NEWEST = "checkpoint-4/"
DAMAGES: list[tuple[Callable[[Path], None], str, int, str]] = [
    (zero_second_half, f"{NEWEST}model.safetensors", 2, "model.safetensors: damaged"),
    (flip, f"{NEWEST}model.safetensors", 2, "model.safetensors: damaged"),
    (remove, f"{NEWEST}optimizer.pt", 2, "optimizer.pt: missing"),
    (remove, f"{NEWEST}scheduler.pt", 2, "scheduler.pt: missing"),
    (cut, f"{NEWEST}rng_state.pth", 2, "rng_state.pth: damaged"),
    (cut, f"{NEWEST}trainer_state.json", 2, "trainer_state.json: damaged"),
    (cut, f"{NEWEST}manifest.json", 2, "manifest.json: damaged"),
    (overwrite, f"{NEWEST}manifest.json", 2, "manifest.json: damaged"),
    (remove, f"{NEWEST}manifest.json", 2, "resuming"),
    (overwrite, "metrics.jsonl", 4, "resuming"),
    (remove, "metrics.jsonl", 4, "resuming"),
    (overwrite, "settings.json", 0, "has no readable settings"),
    (remove, "settings.json", 0, "has no readable settings"),
]


@pytest.mark.parametrize(
    ("damage", "name", "step", "message"), DAMAGES, ids=[f"{damage.__name__} {name}" for damage, name, *_ in DAMAGES]
)
def test_damage_never_changes_the_result(interrupted, capsys, damage, name, step, message):
    damage(restored(interrupted) / name)
    finetune(interrupted.config)
    said = capsys.readouterr().err
    assert message in said
    assert f"resuming the interrupted run at step {step}" in said if step else "resuming" not in said
    assert ("renamed checkpoint-4 to checkpoint-4.damaged" in said) == (": damaged" in message or ": miss" in message)
    assert_ends_as_undisturbed(interrupted)


def restored(interrupted: Interrupted) -> Path:
    """Put the folder of the interrupted run back to its place."""
    shutil.rmtree(interrupted.config.output.parent)
    return shutil.copytree(interrupted.saved, interrupted.config.work_folder)


def assert_ends_as_undisturbed(interrupted: Interrupted) -> None:
    output = interrupted.config.output
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (output / name).read_bytes() == (interrupted.whole / name).read_bytes()
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_run_whose_states_are_all_damaged_starts_from_the_beginning(interrupted, capsys):
    work = restored(interrupted)
    for step in (2, 4):
        flip(work / f"checkpoint-{step}" / "optimizer.pt")
    finetune(interrupted.config)
    said = capsys.readouterr().err
    assert said.count("trying the state before it") == 2
    assert "resuming" not in said
    assert_ends_as_undisturbed(interrupted)


def test_state_of_another_run_is_set_aside(interrupted, capsys):
    path = restored(interrupted) / NEWEST / "manifest.json"
    content = json.loads(path.read_text())
    content["run"]["crc32"] ^= 1
    del content["crc32"]
    path.write_text(json.dumps({**content, "crc32": checksum(content)}))
    finetune(interrupted.config)
    said = capsys.readouterr().err
    assert "checkpoint-4: belongs to another run, by the checksum of settings.json in it; renamed" in said
    assert "resuming the interrupted run at step 2" in said
    assert_ends_as_undisturbed(interrupted)


@pytest.mark.parametrize("name", ["model", "data"])
def test_run_whose_model_or_data_has_changed_starts_over(interrupted, capsys, name):
    restored(interrupted)
    path = next(getattr(interrupted.config, name).glob("*.json*"))
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    try:
        finetune(interrupted.config)
    finally:
        path.write_bytes(before)
    said = capsys.readouterr().err
    assert "belongs to a run with other settings, model or data" in said
    assert "resuming" not in said
    assert_ends_as_undisturbed(interrupted)


def test_loss_that_is_a_mean_over_steps_before_and_after_a_resume(interrupted, tmp_path):
    """The interrupted run saves after step 4, and logs the mean of steps 4 to 6 at the end."""
    undisturbed = replace(interrupted.config, output=tmp_path / "undisturbed", log_interval=3)
    finetune(undisturbed)
    config = replace(undisturbed, output=tmp_path / "interrupted")
    interrupt(config)
    finetune(config)
    assert (config.output / "metrics.jsonl").read_bytes() == (undisturbed.output / "metrics.jsonl").read_bytes()


def test_second_run_with_the_same_output_is_refused(interrupted, monkeypatch):
    work = restored(interrupted)
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.name != LOCK_FILE}
    monkeypatch.setattr("pause_megatron.locks.PATIENCE_SECONDS", 0.1)
    message = rf"--output {interrupted.config.output}: another run is writing it; .* \(.*pid {os.getpid()}, first\)"
    with sole_owner(work, refusal="", owner="first"), pytest.raises(UserError, match=message):
        finetune(interrupted.config)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.name != LOCK_FILE} == before


def test_what_a_run_left_beside_its_complete_output_is_removed(interrupted):
    work, output = restored(interrupted), interrupted.config.output
    output.mkdir()
    temporary = output.with_name(f".{output.name}.12345678.tmp")
    temporary.mkdir()
    with pytest.raises(UserError, match="exists already"):
        finetune(interrupted.config)
    assert work.exists(), "the folder is no finished model"
    assert temporary.exists()
    (output / "finetune.json").touch()
    with pytest.raises(UserError, match="exists already"):
        finetune(interrupted.config)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_full_disk_keeps_what_was_saved(interrupted, tmp_path):
    disk = tmp_path / "disk"
    config = replace(interrupted.config, output=disk / "finetuned")
    with small_disk(disk, "700k") as resize:
        with pytest.raises(UserError, match=r"state of step \d could not be written .*free disk space"):
            finetune(config)
        resize("64m")
        finetune(config)
        assert_ends_as_undisturbed(replace(interrupted, config=config))
