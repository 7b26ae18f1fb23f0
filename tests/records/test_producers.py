"""Each command reads the files of the commands before it, and reports each damaged key with the file name.

Every file is written by the command that writes it in real use, at tiny size.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pause_megatron.cli.commands import TOOLS
from pause_megatron.cli.main import main, run_command
from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.errors import EXIT_DONE, EXIT_USER
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.diagnosis import DiagnosisRecord
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_record
from pause_megatron.records.finetuning import FINETUNE_METRICS_KINDS, FinetuneRecord
from pause_megatron.records.pretraining import METRICS_FILE, METRICS_KINDS, RunRecord
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer
from tests.records.damage import CHANGES, damaged, keys

ZERO1 = Path(__file__).parents[2] / "ds_configs" / "zero1_fp32.json"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with run, export, finetuned model, result and diagnosis of one model."""
    folder = tmp_path_factory.mktemp("chain")
    write_text_and_tokenizer(folder)
    write_task("parity", folder / "parity", seed=0, train=40, test=8)
    write_dataset(folder, "pause")
    write_dataset(folder, "held-out", "validation")
    for line in COMMANDS:
        words = line.format(folder=folder, deepspeed=ZERO1).split()
        exit_code = run_command(TOOLS[words[0]], words[0], words[1:]) if words[0] in TOOLS else main(words)
        assert exit_code == EXIT_DONE, line
    return folder


COMMANDS = (
    "pretrain --data {folder}/pause --validation-data {folder}/held-out --tokenizer {folder}/tokenizer"
    " --output {folder}/run --deepspeed {deepspeed} --preset tiny --train-iters 2 --global-batch-size 4"
    " --micro-batch-size 2 --log-interval 1 --seed 7 --model-name paused",
    "convert_to_hf.py --checkpoint {folder}/run --output {folder}/hf",
    "finetune --model {folder}/hf --task parity --data {folder}/parity --output {folder}/ft --num-pauses-ft 2 --steps 2"
    " --warmup-steps 1 --batch-size 4 --log-interval 1",
    "evaluate --model {folder}/ft --task parity --data {folder}/parity --output {folder}/result.json --limit 4",
    "diagnose --model {folder}/ft --task parity --data {folder}/parity --pretrain {folder}/run"
    " --output {folder}/diagnosis.json --limit 4",
)


@dataclass(frozen=True)
class Reader:
    """A file of the chain, its record classes, and the command that reads it."""

    file: str
    kinds: tuple[type, ...]
    command: tuple[str, ...]


REPORT_RUN = ("report", "--pretrain", "run", "--evaluations", "result.json", "--output", "report")
GENERATE = ("--prompt", "01:", "--max-new-tokens", "2")
READERS = (
    Reader(f"run/{RunRecord.FILE}", (RunRecord,), REPORT_RUN),
    Reader(f"run/{METRICS_FILE}", METRICS_KINDS, REPORT_RUN),
    Reader("result.json", (EvaluationRecord,), REPORT_RUN),
    Reader("diagnosis.json", (DiagnosisRecord,), ("report", "--diagnoses", "diagnosis.json", "--output", "diagnosed")),
    Reader(f"ft/{FinetuneRecord.FILE}", (FinetuneRecord,), REPORT_RUN),
    Reader(f"ft/{METRICS_FILE}", FINETUNE_METRICS_KINDS, REPORT_RUN),
    Reader(f"ft/{FinetuneRecord.FILE}", (FinetuneRecord,), ("generate", "--model", "ft", *GENERATE)),
    Reader(f"hf/{ExportRecord.FILE}", (ExportRecord,), ("generate", "--model", "hf", *GENERATE)),
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: f"{reader.file} by {reader.command[0]}")
def test_a_damaged_key_is_reported_by_the_command_that_reads_it(
    chain: Path, reader: Reader, change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(chain)
    path = Path(reader.file)
    content = path.read_text(encoding="utf-8")
    lines = content.splitlines() if path.suffix == ".jsonl" else [content]
    tried = 0
    try:
        for number, line in enumerate(lines):
            values = json.loads(line)
            kind = next((kind for kind in reader.kinds if values.get("kind") == getattr(kind, "KIND", None)), None)
            assert kind, f"{reader.file} has a line of no known kind"
            for key in keys(values, kind, change):
                bad = json.dumps(damaged(values, key, change))
                path.write_text("\n".join([*lines[:number], bad, *lines[number + 1 :]]) + "\n", encoding="utf-8")
                assert main(list(reader.command)) == EXIT_USER, key
                error = capsys.readouterr().err
                assert reader.file in error
                assert key[-1] in error
                tried += 1
    finally:
        path.write_text(content, encoding="utf-8")
    assert tried >= 3


def test_a_result_names_the_model_its_seed_and_its_size(chain: Path) -> None:
    """All records agree, and the sizes are those that transformers counts in the exported model."""
    from transformers import AutoModelForCausalLM

    run = read_record(chain / "run" / RunRecord.FILE, RunRecord)
    export = read_record(chain / "hf" / ExportRecord.FILE, ExportRecord)
    finetuned = read_record(chain / "ft" / FinetuneRecord.FILE, FinetuneRecord)
    result = read_record(chain / "result.json", EvaluationRecord)
    assert (run.name, run.model, run.seed) == ("run", "paused", 7)
    pretraining = export.pretraining
    assert (pretraining.name, pretraining.model, pretraining.seed) == ("run", "paused", 7)
    assert (pretraining.pauses, pretraining.pause_rate) == ("sequence", 0.1)
    assert pretraining.real_tokens + pretraining.pause_tokens == 2 * 4 * SEQ_LENGTH
    assert finetuned.pretraining == result.pretraining == pretraining
    assert finetuned.model_name == result.model_name == result.pretrained_model == "paused"
    model = AutoModelForCausalLM.from_pretrained(chain / "hf")
    layers = sum(parameter.numel() for parameter in model.transformer.h.parameters())
    layers += sum(parameter.numel() for parameter in model.transformer.ln_f.parameters())
    assert {run.parameters, pretraining.parameters, result.architecture.parameters} == {model.num_parameters()}
    assert run.non_embedding_parameters == pretraining.non_embedding_parameters == layers
    assert result.architecture.non_embedding_parameters == layers


def test_files_of_older_versions_are_read_and_name_the_run(chain: Path) -> None:
    values = json.loads((chain / "result.json").read_text(encoding="utf-8"))
    del values["model_name"], values["finetuning"]["model_name"], values["architecture"]["non_embedding_parameters"]
    for pretraining in (values["pretraining"], values["finetuning"]["pretraining"]):
        for key in ("model_name", "seed", "parameters", "non_embedding_parameters"):
            del pretraining[key]
    (chain / "older.json").write_text(json.dumps(values), encoding="utf-8")
    older = read_record(chain / "older.json", EvaluationRecord)
    assert older.pretrained_model == "run"
    assert older.pretraining is not None
    assert older.pretraining.seed is None
    (chain / "older.json").unlink()


def test_undamaged_files_are_read(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chain)
    for command in {reader.command for reader in READERS}:
        assert main(list(command)) == EXIT_DONE
    shutil.rmtree("report")


def test_a_diagnosis_follows_the_embedding_from_the_run_to_the_finetuned_model(chain: Path) -> None:
    embedding = read_record(chain / "diagnosis.json", DiagnosisRecord).embedding
    assert [one.iteration for one in embedding] == [2, None]
    assert embedding[0].movement == 0.0 < embedding[1].movement
