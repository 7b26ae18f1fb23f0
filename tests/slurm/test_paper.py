"""The paper's experiment at tiny size by the batch scripts of slurm/: from text to a report, each step a Slurm job."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name
from pause_megatron.downstream.generated_tasks import write_task
from tests.chain import SEQ_LENGTH, verified
from tests.experiments.test_study import MODEL, TRAIN
from tests.slurm.cluster import REPOSITORY, Cluster
from tests.slurm.site import edit_env, make_site, prepare_data

SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sh"))
STEPS = 4
JOBS = (
    *("tokenizer", "preprocess-train-0", "preprocess-train-1", "preprocess-train"),
    *("merge-none", "merge-sequence-0.1", "verify-train-none", "verify-train-sequence-0.1"),
    *("preprocess-validation", "verify-validation-none", "verify-validation-sequence-0.1"),
    *(f"{stage}-{model}-pt0-130m" for model in ("stdpt", "pausept") for stage in ("pretrain", "export")),
    *(
        f"{command}-parity-{model}-pt0-130m-ft{pauses}-seed0"
        for model in ("stdpt", "pausept")
        for pauses in (0, 2)
        for command in ("finetune", "evaluate")
    ),
    "report",
)


def run_paper(cluster: Cluster, checkout: Path, *options: str) -> list[str]:
    """Call ``run_paper.sh`` with every stage at tiny size; return the lines it prints."""
    done = cluster.run(
        *(checkout / "slurm" / "run_paper.sh", *options, "130m", "--", *tiny_values()),
        environment={"SLURM_JOB_ID": "99999", "OMP_NUM_THREADS": "1"},  # as if called from a job
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).splitlines()


def tiny_values() -> list[str]:
    """Values of the study ``paper-130m`` for a run in minutes on two nodes with two ranks each."""
    train = {**TRAIN, "train_iters": STEPS, "tensor_model_parallel_size": 2}
    finetune = {"steps": 4, "batch_size": 4, "warmup_steps": 1, "log_interval": 1, "prefix_attention": "causal"}
    values: dict[str, Any] = {
        "pretrain.tokenizer": {"vocab_size": 512},
        "pretrain.preprocess.seq_length": SEQ_LENGTH,
        "pretrain.merge": 1,
        "pretrain.sizes": {"130m": MODEL},
        "pretrain.seeds": [0],
        "pretrain.train": {**train, "global_batch_size": 8, "micro_batch_size": 2, "validation_sequences": 8},
        "tasks": {"parity": None},
        "num_pauses_ft": [0, 2],
        "seeds": [0],
        "finetune": finetune,
        "evaluate": {"limit": 4, "batch_size": 4},
    }
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


@pytest.mark.slow
def test_whole_chain(cluster: Cluster, tmp_path: Path) -> None:
    checkout = make_site(tmp_path)
    study = tmp_path / "work" / "paper-130m"
    write_task("parity", tmp_path / "tasks" / "parity", seed=0, train=100, test=20)

    planned = run_paper(cluster, checkout, "--dry-run")
    assert planned[len(JOBS)] == f"{len(JOBS)} jobs: 0 done, 0 unfinished, {len(JOBS)} to do"
    assert all(line.startswith("to do       ") for line in planned[: len(JOBS)])
    assert not cluster.ask("squeue", "--noheader")

    said = run_paper(cluster, checkout)
    assert said[-1].startswith(f"{len(JOBS)} of {len(JOBS)} jobs queued")
    queued: dict[str, str] = json.loads((study / "slurm" / "queued.json").read_text())
    assert tuple(queued) == JOBS
    assert sorted(re.findall(r"--shard-range (\d/\d)", "\n".join(said))) == ["0/2", "1/2"]
    again = run_paper(cluster, checkout)
    assert again[-1].startswith(f"0 of {len(JOBS)} jobs queued")
    assert f"report: in the queue as job {queued['report']}" in again
    one_cell = queue_one_cell(cluster, checkout, after=queued["export-stdpt-pt0-130m"])
    cluster.wait(queued["report"], timeout=3000)  # some minutes if the machine is idle

    assert run_paper(cluster, checkout)[-1].startswith(f"0 of {len(JOBS)} jobs queued, {len(JOBS)} done before")
    logs = {log.stem: log.read_text() for log in (study / "logs").glob("*.log")}
    for part in (0, 1):
        assert "4 shards: 2 to do in this run" in logs[f"preprocess-train-{part}"]
    data = tmp_path / "work" / "study-data" / "data"
    assert verified(data / "train-sequence-0.1").pauses > 0
    checked = [name for name, log in logs.items() if re.search(r"^verified +no faults", log, re.MULTILINE)]
    assert sorted(checked) == sorted(name for name in JOBS if name.startswith("verify"))
    assert "4 processes meeting at" in logs["pretrain-pausept-pt0-130m"]
    assert "TP 2 · PP 1 · DP 2" in logs["pretrain-pausept-pt0-130m"]
    assert (study / "runs" / "stdpt-pt0-130m" / CHECKPOINTS / checkpoint_name(STEPS)).is_dir()
    report = (study / "report" / "report.md").read_text()
    assert "PausePT_PauseFT" in report
    assert "parity" in report
    assert len(list((study / "evaluate").glob("parity/*.json"))) == 4
    assert cluster.wait(one_cell)["JobState"] == "COMPLETED"
    assert (tmp_path / "work" / "results" / "parity" / "stdpt-pt0-130m-ft2-inf2.json").is_file()


def queue_one_cell(cluster: Cluster, checkout: Path, after: str) -> str:
    """Queue a finetuning after the job ``after``, and its evaluation; return the job id of the evaluation."""
    scripts, cell = checkout / "slurm", ("stdpt-pt0-130m", "parity", 2, "--")
    flags = ("--preset", "tiny", "--steps", 2, "--batch-size", 4, "--warmup-steps", 1, "--prefix-attention", "causal")
    finetune = cluster.ask(scripts / "finetune.sh", f"--dependency=afterok:{after}", *cell, *flags).strip()
    return cluster.ask(scripts / "evaluate.sh", f"--dependency=afterok:{finetune}", *cell, "--limit", 4).strip()


@pytest.mark.parametrize("script", [*SCRIPTS, REPOSITORY / ".ci/run", REPOSITORY / ".ci/system_packages"], ids=str)
def test_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here; the shell scripts were not checked")
    done = subprocess.run(
        ["shellcheck", "--external-sources", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_header_of_every_script_names_its_inputs_cost_and_output() -> None:
    for script in SCRIPTS:
        if script.name not in ("env.sh", "lib.sh"):
            header = script.read_text(encoding="utf-8").split("set -euo pipefail")[0]
            assert all(f"{word}: " in header for word in ("Needs", "Cost", "Output")), script


def dry_run(checkout: Path, *arguments: object, script: str = "pretrain_1b.sh") -> subprocess.CompletedProcess[str]:
    """Call a script with ``--dry-run``, without Slurm."""
    command = [checkout / "slurm" / script, "--dry-run", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_variables_of_the_environment_replace_settings_of_the_site() -> None:
    scalars = {"WORK": "/scratch/with space", "GPUS_PER_NODE": "4", "ACCOUNT": "a1"}
    given = {**scalars, "GPU_OPTIONS": "--qos=long --exclusive", "CONTAINER": "apptainer exec i.sif", "DEVICE": "cpu"}
    environment = {"PATH": os.environ["PATH"], **{f"PAUSE_MEGATRON_{name}": value for name, value in given.items()}}
    shown = '"$WORK" "$GPUS_PER_NODE" "$ACCOUNT" "${GPU_OPTIONS[@]}" "${CONTAINER[@]}" $SBATCH_ACCOUNT $CPUS_PER_GPU'
    script = f"set -euo pipefail; REPOSITORY=/r; . slurm/env.sh; printf '%s\\n' {shown}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    words = [*scalars.values(), "--qos=long", "--exclusive", "apptainer", "exec", "i.sif", "a1", "8"]
    assert done.stdout.splitlines() == words


def test_dry_run_prints_command_layout_memory_and_days(tmp_path: Path) -> None:
    checkout = make_site(tmp_path)
    edit_env(checkout, GPUS_PER_NODE=8, C4_VALIDATION="")
    prepare_data(checkout)
    layout = ("--tensor-model-parallel-size", 2, "--pipeline-model-parallel-size", 2)
    done = dry_run(checkout, "--nodes=2", "stdpt", "--", *layout)
    assert done.returncode == 0, done.stderr
    assert "2 nodes with 8 tasks each, 0:30:00 at a time" in done.stdout
    assert f"pretrain --preset 1b --data {tmp_path / 'work' / 'data' / 'standard-merged'}" in done.stdout
    assert re.search(r"^GiB per GPU, on the pipeline stage that needs the most\n +16 GPUs", done.stdout, re.MULTILINE)
    assert re.search(r"^ +GPUs  data-parallel .* days", done.stdout, re.MULTILINE)
    assert not list(tmp_path.rglob("*.log"))

    for flags, refusal in (
        (["--tensor-model-parallel-size", 3], "cannot be divided into --tensor-model-parallel-size 3"),
        (["--trian-iters", 5], "--trian-iters"),
    ):
        done = dry_run(checkout, "--", *flags)
        assert done.returncode == 2, flags
        assert refusal in done.stdout + done.stderr


def test_merge_job_verifies_every_dataset(tmp_path: Path) -> None:
    data = tmp_path / "work" / "data"
    planned = dry_run(make_site(tmp_path), script="merge_c4.sh")
    assert planned.returncode == 0, planned.stderr
    commands = [line.split("verify-dataset ")[1].strip() for line in planned.stdout.splitlines() if "verify-" in line]
    assert commands == [
        f"--data {data}/standard-merged",
        f"--data {data}/pause-merged --standard {data}/standard-merged",
        f"--data {data}/validation-standard",
        f"--data {data}/validation-pause --standard {data}/validation-standard",
    ]


@pytest.mark.slow
def test_merge_job_stops_at_a_damaged_dataset(tmp_path: Path) -> None:
    checkout, data = make_site(tmp_path), tmp_path / "work" / "data"
    edit_env(checkout, C4_VALIDATION="")
    prepare_data(checkout, also=(f"none:{data / 'standard-merged'}",))
    own_job = tmp_path / "slurm_script"  # Slurm runs a copy in another folder, and tells the script its place
    shutil.copy(checkout / "slurm" / "merge_c4.sh", own_job)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho '   Command={checkout}/slurm/merge_c4.sh'\n")
    scontrol.chmod(0o755)
    environment = {**os.environ, "PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    path = next((data / "standard-merged").glob("*.bin"))
    content = path.read_bytes()
    for end, code in ((bytes(2), 2), (content[-2:], 0)):
        path.write_bytes(content[:-2] + end)
        done = subprocess.run([own_job], env=environment, capture_output=True, text=True, check=False)
        log = (data / "logs" / "job-7.log").read_text()
        assert done.returncode == code, log
        assert (data / "logs" / "verified").exists() == (code == 0)
    assert f"error: {data}/standard-merged: " in log


@pytest.mark.parametrize("script", ["finetune.sh", "evaluate.sh"])
def test_folder_of_a_task_may_have_the_name_of_its_data_set(script: str, tmp_path: Path) -> None:
    checkout = make_site(tmp_path)
    cell = ("stdpt-130m", "web_questions", 10)
    refused = dry_run(checkout, *cell, script=script)
    assert refused.returncode == 2
    assert f"{tmp_path}/tasks/web_questions: no such folder; correct TASKS in slurm/env.sh" in refused.stderr
    (tmp_path / "tasks" / "webqs").mkdir(parents=True)
    found = dry_run(checkout, *cell, script=script)
    assert found.returncode == 0, found.stderr
    assert f"--data {tmp_path}/tasks/webqs" in found.stdout
