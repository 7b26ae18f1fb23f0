"""Finetuning on two processes gives the weights of one with every kind of sharding, and resumes when interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pause_megatron import locks
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.config.serialize import flags_of_mapping, to_flat
from pause_megatron.downstream import finetune as finetuning
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.processes import process_arguments
from pause_megatron.downstream.work_folder import WorkFolder
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from pause_megatron.log import read_json_lines
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.records.files import read_record
from pause_megatron.records.finetuning import FinetuneRecord
from tests.distributed import TORCHRUN_FLAGS, run_distributed
from tests.downstream.settings import changed
from tests.downstream.two_processes import SHARING, parts_trained, same_results, shared, small_config
from tests.quick import others_slow

REPOSITORY = Path(__file__).parents[2]
BF16 = sorted(file.name for file in (REPOSITORY / "ds_configs").glob("*_bf16*.json"))


@pytest.fixture(scope="module")
def config(tokenizer, tmp_path_factory) -> FinetuneConfig:
    return small_config(tokenizer, tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def alone(config) -> Path:
    """Output of one process."""
    finetune(config)
    return config.output


def interrupted_and_resumed(config: FinetuneConfig, alone: Path, folder: Path, sharing: str) -> None:
    """Finetune on two processes, interrupt them in step 5, resume, and compare with the output of one process."""
    together = shared(config, folder, SHARING[sharing])
    assert run_distributed(parts_trained, 2, together, 5) == [10, 10]
    assert not together.output.exists()
    assert run_distributed(parts_trained, 2, together, None) == [4, 4], "continued at step 4"
    same_results(alone, together.output)
    AutoModelForCausalLM.from_pretrained(together.output)
    assert not list(folder.glob(".*")), "the work folder is gone"


@pytest.mark.parametrize("sharing", SHARING)
def test_two_processes_that_resume_end_with_the_weights_of_one(config, alone, tmp_path, sharing):
    interrupted_and_resumed(config, alone, tmp_path, sharing)


@pytest.fixture(scope="module")
def every_token(config) -> FinetuneConfig:
    """Two pauses after every second token of prompt and target, on one process."""
    pausing = FinetunePausing(num_pauses_ft=2, pause_placement="every", pause_interval=2)
    every = replace(config, pausing=pausing, output=config.output.with_name("every"))
    finetune(every)
    return every


@pytest.mark.parametrize("sharing", SHARING)
def test_so_they_do_with_pauses_after_every_token(every_token, tmp_path, sharing):
    interrupted_and_resumed(every_token, every_token.output, tmp_path, sharing)
    record = read_record(tmp_path / "together" / FinetuneRecord.FILE, FinetuneRecord)
    assert (record.pause_placement, record.num_pauses_ft, record.pause_interval) == ("every", 2, 2)


def test_deepspeed_keeps_weights_in_its_own_precision(config, alone, tmp_path):
    file = REPOSITORY / "ds_configs" / "zero3_bf16.json"
    together = replace(config, output=tmp_path / "together", deepspeed=file, precision="bf16")
    run_distributed(parts_trained, 2, together, None)
    assert AutoModelForCausalLM.from_pretrained(together.output, dtype="auto").dtype == torch.bfloat16
    expected, found = (read_json_lines(folder / "metrics.jsonl") for folder in (alone, together.output))
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], abs=0.05)
    assert found[-1]["loss"] == pytest.approx(expected[-1]["loss"], abs=0.05)


def test_one_process_may_use_deepspeed(config, alone, tmp_path):
    together = shared(config, tmp_path, SHARING["zero2"])
    assert run_distributed(parts_trained, 1, together, None) == [12]
    same_results(alone, together.output)


def test_another_number_of_processes_starts_over(config, tmp_path, capsys):
    config = replace(config, output=tmp_path / "together")
    work = WorkFolder(config.work_folder)
    work.path.mkdir()
    state = work.path / "checkpoint-2"
    work.open(config, processes=2)
    state.mkdir()
    work.open(config, processes=2)
    assert state.exists()
    work.open(config, processes=1)
    assert not state.exists()
    assert "starting over" in capsys.readouterr().err


def launched(config: FinetuneConfig) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in to_flat(config).items() if value is not None and value is not False}
    launcher = (sys.executable, "-m", "torch.distributed.run", *TORCHRUN_FLAGS, "--nproc-per-node=2")
    flags = flags_of_mapping(settings, FinetuneConfig, "test")
    return subprocess.run(
        [*launcher, "-m", "pause_megatron", "finetune", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_torchrun_starts_the_command_and_only_rank_0_logs(config, alone, tmp_path):
    done = launched(replace(config, output=tmp_path / "together"))
    assert done.returncode == EXIT_DONE, done.stderr
    assert done.stderr.count("on 2 processes") == done.stderr.count("wrote ") == 1
    same_results(alone, tmp_path / "together")


@pytest.mark.slow
def test_error_of_all_processes_is_printed_once(config, tmp_path):
    done = launched(replace(config, output=tmp_path / "together", batch_size=6))
    assert done.returncode != EXIT_DONE
    message = "error: --batch-size 6: does not divide into 2 processes times --gradient-accumulation-steps 2"
    assert done.stderr.count("error: ") == done.stderr.count(message) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "speaker"), [(41, ""), (4, "rank 1: ")])
def test_error_names_the_example_of_one_process_while_the_other_waits(config, tmp_path, number, speaker):
    lines = (config.data / "train.jsonl").read_text().splitlines()
    lines[number - 1] = json.dumps({"question": "is the name", "answer": "name " * 300})
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "task" / "test.jsonl").write_text((config.data / "test.jsonl").read_text())
    done = launched(replace(config, data=tmp_path / "task", steps=8, output=tmp_path / "together"))
    # The other process can end this one, and say why, before it speaks for itself
    said = f"(error: {speaker}|rank 1 .* has left with exit code {EXIT_USER}: )"
    assert re.search(rf"{said}training example {number} \('is the name'\): no room for the prompt", done.stderr)
    assert re.search(rf"exitcode *: {EXIT_USER} ", done.stderr), done.stderr
    assert not (tmp_path / "together").exists()


def is_in_group_after_refusal(config: FinetuneConfig) -> bool:
    with pytest.raises(UserError):
        finetune(config)
    return torch.distributed.is_initialized()


@pytest.mark.parametrize("sharing", ["plain", "fsdp"])
def test_error_leaves_the_group(config, tmp_path, sharing):
    """Otherwise the process sometimes aborts with another exit code."""
    too_many = shared(changed(config, num_pauses_ft="1000"), tmp_path, SHARING[sharing])
    assert run_distributed(is_in_group_after_refusal, 2, too_many) == [False, False]


def refusal_of_second_run(config: FinetuneConfig) -> str:
    locks.PATIENCE_SECONDS = 0.1  # for good: a process does this once
    with pytest.raises(UserError) as refused:
        finetune(config)
    return str(refused.value)


def test_second_run_is_refused_on_every_process(config, tmp_path):
    second = replace(config, output=tmp_path / "together")
    second.work_folder.mkdir()
    with locks.sole_owner(second.work_folder, refusal=""):
        messages = run_distributed(refusal_of_second_run, 2, second)
    assert messages[0].startswith(f"--output {second.output}: another run is writing it; wait until it ends")
    assert messages == messages[:1] * 2


def killed_before_it_writes(config: FinetuneConfig) -> None:
    finetuning.write_finetuned_folder = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    finetune(config)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARING)
def test_processes_killed_after_their_last_step_train_no_further(config, tmp_path, sharing):
    together = replace(shared(config, tmp_path, SHARING[sharing]), schedule="constant")
    reference = replace(together, output=tmp_path / "reference")
    run_distributed(parts_trained, 2, reference, None)
    with pytest.raises(AssertionError, match="rank 0 died"):
        run_distributed(killed_before_it_writes, 2, together)
    assert run_distributed(parts_trained, 2, together, None) == [0, 0]
    same_results(reference.output, together.output)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deepspeed": {"bf16": {"enabled": True}}}, r"deepspeed.json: computes in bf16, but --precision is fp32"),
        ({"deepspeed": {"fp16": {"enabled": True}}, "precision": "bf16"}, r"computes in fp16, but --precision is bf16"),
        ({"deepspeed": {"train_batch_size": 8}}, r"remove 'train_batch_size', which is set by --batch-size"),
        (
            {"fsdp": "full_shard", "fsdp_config": {"reshard_after_forward": True}},
            r"unknown key 'reshard_after_forward'",
        ),
        ({"fsdp": "full_shard", "fsdp_config": Path("absent.json")}, r"absent.json: No such file"),
    ],
)
def test_files_that_contradict_the_flags_are_refused(config, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        process_arguments(shared(config, tmp_path, settings), detect_launch())


@pytest.mark.parametrize("name", others_slow(BF16, quick=["zero1_bf16.json"]))
def test_files_for_pretraining_also_serve_finetuning(config, tmp_path, name):
    file = REPOSITORY / "ds_configs" / name
    once = replace(config, output=tmp_path / "out", deepspeed=file, precision="bf16", steps=1, save_interval=1)
    assert run_distributed(parts_trained, 1, once, None) == [2]
    assert load_file(once.output / "model.safetensors")
