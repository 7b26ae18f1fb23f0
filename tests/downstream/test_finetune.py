import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.config.serialize import to_plain
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.tasks import Task
from pause_megatron.downstream.trainer_arguments import training_arguments
from pause_megatron.downstream.training_examples import PausedExamples
from pause_megatron.errors import UserError
from pause_megatron.log import read_json_lines
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import write_record
from tests.downstream.settings import changed
from tests.records.examples import example


@pytest.fixture
def config(model_path, parity_data, tmp_path) -> FinetuneConfig:
    return FinetuneConfig(
        model=model_path("gpt2"),
        task="parity",
        data=parity_data,
        output=tmp_path / "finetuned",
        pausing=FinetunePausing(num_pauses_ft=3),
        steps=6,
        batch_size=8,
        warmup_steps=2,
        learning_rate=1e-3,
        log_interval=4,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_finetuned_folder_is_complete_and_loads_with_stock_classes(config):
    finetune(config)
    record = json.loads((config.output / "finetune.json").read_text())
    expected = {"task": "parity", "num_pauses_ft": 3, "prefix_attention": "bidirectional", "seed": 0, "steps": 6}
    assert expected.items() <= record.items()
    assert record["format"] == "pause_megatron/finetune/1"
    assert record["variant"] == "stdpt_pauseft"
    assert record["pretraining"] is None
    steps = [line["step"] for line in read_json_lines(config.output / "metrics.jsonl")]
    assert steps == [4, 6]
    unchecked = {path.name for path in config.output.iterdir()} - record["files"].keys()
    assert unchecked == {"finetune.json", "metrics.jsonl", "README.md"}
    model = AutoModelForCausalLM.from_pretrained(config.output)
    tokenizer = AutoTokenizer.from_pretrained(config.output)
    assert model.generation_config.suppress_tokens == [tokenizer.convert_tokens_to_ids("<pause>")]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert [path.name for path in config.output.parent.iterdir()] == ["finetuned"], "the work folder is gone"


def test_every_weight_moves_and_the_pause_embedding_with_them(config):
    finetune(config)
    before, after = weights(config.model), weights(config.output)
    unmoved = [name for name in after if torch.equal(before[name], after[name])]
    assert unmoved == []
    pause = load_model_folder(config.model).pause_id
    embedding = "transformer.wte.weight"
    assert not torch.equal(before[embedding][pause], after[embedding][pause])


def test_pretraining_is_copied_from_the_export_and_names_the_variant(config, model_path, tmp_path):
    base = load_model_folder(model_path("gpt2"))
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    report = example(ExportRecord)
    report = replace(report, pretraining=replace(report.pretraining, pauses="sequence"), files=None)
    write_record(tmp_path / "base" / "conversion_report.json", report)
    finetune(changed(config, model=tmp_path / "base", num_pauses_ft=0, steps=1, log_interval=1))
    record = json.loads((config.output / "finetune.json").read_text())
    assert record["pretraining"] == to_plain(report.pretraining)
    assert record["variant"] == "pausept_stdft"


def test_same_seed_gives_the_same_weights_and_another_seed_others(config, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        finetune(replace(config, output=tmp_path / name, seed=seed))
    a, b, c = (weights(tmp_path / name)["transformer.wte.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, 0.8536, 0.5, 0.1464]),
    ],
)
def test_learning_rate_warms_up_and_follows_its_schedule(config, schedule, expected):
    finetune(replace(config, schedule=schedule, log_interval=1))
    rates = [line["learning_rate"] for line in read_json_lines(config.output / "metrics.jsonl")]
    assert rates == pytest.approx([share * config.learning_rate for share in expected], rel=1e-3)


def test_optimizer_settings_reach_the_trainer(config):
    config = replace(config, adam_beta1=0.8, adam_beta2=0.7, weight_decay=0.3, clip_grad=0.2)
    arguments = training_arguments(config, detect_launch())
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.8, 0.7)
    assert (arguments.weight_decay, arguments.max_grad_norm) == (0.3, 0.2)


def test_accumulated_micro_batches_give_the_loss_of_the_complete_batch(config, tmp_path):
    finetune(replace(config, output=tmp_path / "whole"))
    finetune(replace(config, output=tmp_path / "parts", gradient_accumulation_steps=4))
    whole, parts = (read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], abs=1e-5)


def test_bf16_runs_and_keeps_fp32_weights(config):
    finetune(replace(config, precision="bf16", steps=2))
    assert weights(config.output)["transformer.wte.weight"].dtype == torch.float32


class InterruptionError(Exception):
    pass


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the Trainer fail in the middle of ``step`` (counted from 0), like a killed process."""
    training_step = Trainer.training_step

    def dying(self, *args, **kwargs):
        if self.state.global_step == step:
            raise InterruptionError
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", dying)


def test_resumed_run_ends_with_identical_weights(config, tmp_path, monkeypatch, capsys):
    config = replace(config, save_interval=2, log_interval=1, output=tmp_path / "interrupted")
    finetune(replace(config, output=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        with pytest.raises(InterruptionError):
            finetune(config)
    assert not config.output.exists()
    finetune(config)
    assert "resuming the interrupted run at step 4" in capsys.readouterr().err
    whole, resumed = weights(tmp_path / "whole"), weights(config.output)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    metrics = [read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "interrupted")]
    assert metrics[0] == metrics[1]


def die_while_writing(*_: object) -> None:
    """Stand in for the writing of the output of a process that is killed."""
    raise InterruptionError


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}], ids=["all weights", "LoRA"])
def test_run_killed_after_its_last_step_trains_no_further(config, settings, tmp_path, monkeypatch):
    config = replace(config, schedule="constant", save_interval=2, log_interval=1, **settings)
    finetune(replace(config, output=tmp_path / "whole"))
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("pause_megatron.downstream.finetune.write_finetuned_folder", die_while_writing)
            with pytest.raises(InterruptionError):
                finetune(config)
    finetune(config)
    whole, resumed = weights(tmp_path / "whole"), weights(config.output)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    metrics = [read_json_lines(folder / "metrics.jsonl") for folder in (tmp_path / "whole", config.output)]
    assert metrics[0] == metrics[1]
    records = [json.loads((folder / "finetune.json").read_text()) for folder in (tmp_path / "whole", config.output)]
    assert [record["kept_step"] for record in records] == [6, 6]


def test_run_with_other_settings_starts_over(config, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        with pytest.raises(InterruptionError):
            finetune(replace(config, save_interval=2))
    finetune(replace(config, save_interval=2, seed=5))
    assert "starting over" in capsys.readouterr().err


def test_loss_that_is_not_finite_stops_the_run_and_leaves_no_output(config):
    with pytest.raises(UserError, match="not finite at step"):
        finetune(replace(config, learning_rate=1e30, clip_grad=0.0, log_interval=1))
    assert not config.output.exists()


def test_weights_that_the_last_step_made_infinite_are_not_written(config):
    with pytest.raises(UserError, match=r"--learning-rate: tensor \S+ is not finite after step 1; lower it"):
        finetune(replace(config, learning_rate=1e39, warmup_steps=0, steps=1, save_interval=1, schedule="constant"))
    assert not config.output.exists()


def test_model_without_a_pause_token_cannot_be_finetuned_with_pauses(config, model_path, tmp_path):
    base = load_model_folder(model_path("gpt2"))
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    for path in (tmp_path / "base").glob("tokenizer*.json"):
        path.write_text(path.read_text().replace("<pause>", "<other>"))
    with pytest.raises(UserError, match=r"--num-pauses-ft 3: .* has no <pause> token"):
        finetune(replace(config, model=tmp_path / "base"))
    finetune(changed(config, model=tmp_path / "base", num_pauses_ft=0, steps=1))


def test_more_pauses_than_the_context_holds_are_refused(config):
    with pytest.raises(UserError, match="no room for the prompt: 70 pauses"):
        finetune(changed(config, num_pauses_ft=70))


def test_existing_output_is_refused_and_left_alone(config):
    config.output.mkdir()
    with pytest.raises(UserError, match="exists already"):
        finetune(config)
    assert not any(config.output.iterdir())


def test_folder_without_a_model_is_refused(config, tmp_path):
    with pytest.raises(UserError, match=r"no config.json; give a folder with a Hugging Face model"):
        finetune(replace(config, model=tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="transformers cannot read it"):
        finetune(replace(config, model=tmp_path))


def test_a_range_of_pauses_is_drawn_from_and_recorded(config):
    finetune(changed(config, num_pauses_ft="0..3", steps=2))
    record = json.loads((config.output / "finetune.json").read_text())
    assert (record["min_num_pauses_ft"], record["num_pauses_ft"]) == (0, 3)
    assert record["variant"].endswith("pauseft")
    assert record["config"]["num_pauses_ft"] == "0..3"


def test_training_draws_anew_in_each_epoch_and_a_resumed_run_repeats_the_draws(config, tmp_path, monkeypatch):
    config = changed(config, num_pauses_ft="0..9", batch_size=32, steps=12, save_interval=5)
    lengths: list[tuple[int, int]] = []  # of prefixes, by index of the example
    get_item = PausedExamples.__getitem__

    def spied(examples, index):
        example = get_item(examples, index)
        lengths.append((index, len(example.prefix)))
        return example

    monkeypatch.setattr(PausedExamples, "__getitem__", spied)
    finetune(config)
    complete = lengths.copy()
    most_read, reads = Counter(index for index, _ in complete).most_common(1)[0]
    assert reads > 2, "the run must have several epochs"
    assert len({length for index, length in complete if index == most_read}) > 1

    interrupted = replace(config, output=tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        interrupt_at(11, patch)
        with pytest.raises(InterruptionError):
            finetune(interrupted)
    lengths.clear()
    finetune(interrupted)
    resumed = lengths[1:]  # without the check of the first example
    assert len(resumed) >= 2 * 32
    assert resumed == complete[-len(resumed) :]


def test_only_the_documents_that_are_trained_on_are_worded(config, monkeypatch):
    worded = []
    pair = Task.pair

    def spied(task, document):
        worded.append(document["question"])
        return pair(task, document)

    monkeypatch.setattr(Task, "pair", spied)
    finetune(replace(config, steps=2))
    assert 16 <= len(worded) <= 25, "two batches of 8 and the one after, and the first document, to see that it fits"
    worded.clear()
    finetune(replace(config, output=config.output / "again", steps=60))
    assert len(worded) == 200, "in several epochs, each is worded once"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_lora_trains_only_matrices_and_the_pause_embedding(config, model_path, architecture):
    config = replace(config, model=model_path(architecture), lora_rank=2, learning_rate=1e-2)
    finetune(config)
    before, after = weights(config.model), weights(config.output)
    assert set(after) == set(before)
    pause_id = load_model_folder(config.model).pause_id
    for name, tensor in before.items():
        moved = after[name] != tensor
        if "wte" in name or "embed_tokens" in name:
            assert moved.any(dim=1).nonzero().flatten().tolist() == [pause_id]
        elif tensor.dim() == 2 and ("attn" in name or "mlp" in name):
            assert moved.any(), name
        else:
            assert not moved.any() or name == "lm_head.weight", name
    AutoModelForCausalLM.from_pretrained(config.output)


def test_resumed_lora_run_ends_with_identical_weights(config, tmp_path, monkeypatch):
    config = replace(config, lora_rank=2, save_interval=2)
    finetune(replace(config, output=tmp_path / "whole"))
    with monkeypatch.context() as patched:
        interrupt_at(5, patched)
        with pytest.raises(InterruptionError):
            finetune(config)
    finetune(config)
    whole, continued = weights(tmp_path / "whole"), weights(config.output)
    assert all(torch.equal(tensor, continued[name]) for name, tensor in whole.items())


def test_metrics_go_to_tensorboard_next_to_the_output(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finetune(replace(config, report_to=("tensorboard",)))
    [file] = (config.output.parent / "tensorboard" / config.output.name).iterdir()
    events = EventAccumulator(str(file)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [4, 6]
    assert "tensorboard" not in {path.name for path in config.output.iterdir()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "--report-to tensorbord: unknown; did you mean 'tensorboard'?"),
        ("clearml", "--report-to clearml: needs the package clearml, which is not installed; run pip install clearml"),
    ],
)
def test_programs_to_report_to_are_checked_before_the_model(config, name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        finetune(replace(config, model=Path("nowhere"), report_to=(name,)))
