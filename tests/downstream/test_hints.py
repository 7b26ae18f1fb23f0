"""Labels at pauses: what the model reads, the loss, its parts in the metrics, and records that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel, Trainer

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.hints import HINT_LABELS, Hints, HintTrainer
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import decided_finetuning
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import PausedExamples
from pause_megatron.downstream.work_folder import MetricsWriter
from pause_megatron.errors import UserError
from pause_megatron.log import read_json_lines
from pause_megatron.pauses.prompts import IGNORE_INDEX
from tests.distributed import run_distributed
from tests.downstream.attention import attends
from tests.downstream.settings import changed
from tests.downstream.test_every_token import pretrained
from tests.quick import others_slow

RECORDS = [
    {"question": "0110:", "answer": "0", "hints": ["1", "1", "0"]},
    {"question": "1:", "answer": "1 2 1", "hints": ["1", "0", "x"]},
    {"question": "01:", "answer": "the name", "hints": ["=", "0", "0"]},
    {"question": "111:", "answer": "1", "hints": ["1", "1", "1"]},
]
PAUSES = 3


def write_records(folder: Path, records: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "test.jsonl").write_text(json.dumps({"question": "0:", "answer": "0"}) + "\n")  # needs no hints
    return folder


@pytest.fixture
def config(model_path, tmp_path) -> FinetuneConfig:
    return FinetuneConfig(
        model=model_path("gpt2"),
        task="parity",
        data=write_records(tmp_path / "task", RECORDS),
        output=tmp_path / "finetuned",
        pausing=FinetunePausing(num_pauses_ft=PAUSES, hint_weight=0.5, prefix_attention="causal"),
        steps=1,
        batch_size=4,
        warmup_steps=0,
        clip_grad=0,
        log_interval=1,
    )


def by_hand(folder, record) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels of hints and labels of the target of one record; unshifted, as Hugging Face's."""
    word = folder.tokenizer.convert_tokens_to_ids
    context = folder.tokenizer.encode(record["question"], add_special_tokens=False)
    both = folder.tokenizer.encode(record["question"] + record["answer"], add_special_tokens=False)
    target = [*both[len(context) :], folder.eod_id]
    ids = [*context, *[folder.pause_id] * PAUSES, *target]
    hints = [*[IGNORE_INDEX] * len(context), *word(record["hints"]), *[IGNORE_INDEX] * len(target)]
    targets = [*[IGNORE_INDEX] * (len(context) + PAUSES), *target]
    return ids, hints, targets


def losses_by_hand(model: GPT2LMHeadModel, folder) -> tuple[torch.Tensor, torch.Tensor]:
    """CE(targets) and CE(hints) of all records, each in a forward pass of its own with all logits."""
    sums, counts = [0.0, 0.0], [0, 0]
    for record in RECORDS:
        ids, *labels = by_hand(folder, record)
        logits = model(torch.tensor([ids])).logits[0, :-1]
        for kind, unshifted in enumerate(labels):
            expected = torch.tensor(unshifted[1:])
            sums[kind] = sums[kind] + cross_entropy(logits, expected, ignore_index=IGNORE_INDEX, reduction="sum")
            counts[kind] += int((expected != IGNORE_INDEX).sum())
    return sums[1] / counts[1], sums[0] / counts[0]


def test_forward_gets_pauses_as_input_and_their_hints_as_labels(config, monkeypatch):
    calls, hints = [], []
    forward, compute_loss = GPT2LMHeadModel.forward, HintTrainer.compute_loss

    def spied_forward(model, *args, **inputs):
        calls.append(inputs)
        return forward(model, *args, **inputs)

    def spied_loss(trainer, model, inputs, *args, **kwargs):
        hints.append(inputs[HINT_LABELS])
        return compute_loss(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", spied_forward)
    monkeypatch.setattr(HintTrainer, "compute_loss", spied_loss)
    finetune(config)
    [inputs], [hint_labels] = calls, hints
    folder = load_model_folder(config.model)
    cases = [by_hand(folder, record) for record in RECORDS]
    before = max(len(targets) - targets.count(IGNORE_INDEX) for _, _, targets in cases)  # the longest target
    prefix = inputs["input_ids"].shape[1] - before
    first = prefix - PAUSES - 1  # column of the last token of every context
    assert inputs["logits_to_keep"] == PAUSES + 1 + before
    rows = {}
    for ids, hinted, targets in cases:
        left = prefix - targets.count(IGNORE_INDEX)
        right = prefix + before - left - len(ids)
        padded = (*[folder.eod_id] * left, *ids, *[folder.eod_id] * right)
        labels = [*[IGNORE_INDEX] * left, *targets, *[IGNORE_INDEX] * right][first:]
        rows[padded] = (left, len(ids), labels, [label for label in hinted if label != IGNORE_INDEX])
    assert len(rows) == len(RECORDS)
    for row, found in enumerate(inputs["input_ids"].tolist()):
        left, length, labels, own_hints = rows.pop(tuple(found))
        real = slice(left, left + length)
        assert inputs["position_ids"][row, real].tolist() == list(range(length))
        assert inputs["labels"][row].tolist() == labels
        assert hint_labels[row].tolist() == own_hints
        attended = attends(inputs["attention_mask"], row)
        assert torch.equal(attended[real, real], torch.ones(length, length).tril().bool())
        assert attended[real].sum() == attended[real, real].sum(), "nothing attends to padding"


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_loss_and_gradient_are_those_of_the_complete_batch(config, monkeypatch, parts):
    gradients = {}

    def keep(writer, args, state, control, model, **_):
        gradients.update({name: parameter.grad.clone() for name, parameter in model.named_parameters()})

    monkeypatch.setattr(MetricsWriter, "on_pre_optimizer_step", keep)
    finetune(replace(config, gradient_accumulation_steps=parts))
    folder = load_model_folder(config.model)
    targets, hints = losses_by_hand(folder.model, folder)
    (targets + 0.5 * hints).backward()
    for name, parameter in folder.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)
    [line] = read_json_lines(config.output / "metrics.jsonl")
    assert (line["loss"], line["hint_loss"]) == pytest.approx((targets.item(), hints.item()), abs=1e-5)


def test_metrics_and_record_tell_the_two_losses_apart(config, capsys):
    finetune(replace(config, steps=5, log_interval=2))
    lines = read_json_lines(config.output / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 5]
    record = json.loads((config.output / "finetune.json").read_text())
    assert record["hint_weight"] == 0.5
    assert record["final_loss"] == lines[-1]["loss"]
    words = capsys.readouterr().err
    assert f"step 5/5: loss {lines[-1]['loss']:.4f}, hint loss {lines[-1]['hint_loss']:.4f}" in words


@pytest.mark.parametrize("settings", [{}, {"num_pauses_ft": 0}])
def test_without_a_weight_hints_are_not_read(config, tmp_path, settings):
    broken = [{**record, "hints": "no list"} for record in RECORDS]
    finetune(changed(config, data=write_records(tmp_path / "broken", broken), hint_weight=0, **settings))
    [line] = read_json_lines(config.output / "metrics.jsonl")
    assert "hint_loss" not in line
    assert "hint_weight" not in json.loads((config.output / "finetune.json").read_text())


def test_hints_are_learned_at_the_position_before_their_pause(config):
    finetune(replace(config, steps=150, learning_rate=3e-3, log_interval=150))
    folder = load_model_folder(config.output)
    for record in RECORDS:
        ids, hints, _ = by_hand(folder, record)
        with torch.no_grad():
            said = folder.model(torch.tensor([ids])).logits[0].argmax(dim=-1).tolist()
        places = [place for place, label in enumerate(hints) if label != IGNORE_INDEX]
        assert [said[place - 1] for place in places] == [hints[place] for place in places]


@pytest.mark.parametrize(
    ("hints", "problem"),
    [
        (["1", "1"], r'2 texts in "hints" for --num-pauses-ft 3: one for each pause; correct the line or remove it'),
        (["1", "1", "name of the"], r"'name of the' in \"hints\" is \d tokens, not one, in "),
        (["1", "1", ""], r"'' in \"hints\" is 0 tokens, not one"),
        ("111", r'expected an object with "hints", a list of texts, one for each pause \(--hint-weight\)'),
        (["1", 1, "1"], r'expected an object with "hints", a list of texts'),
        (None, r'expected an object with "hints", a list of texts'),
    ],
)
def test_record_with_bad_hints_is_refused_with_its_line(config, tmp_path, hints, problem):
    bad = {**RECORDS[1], "hints": hints}
    if hints is None:  # none in some records
        del bad["hints"]
    data = write_records(tmp_path / "bad", [RECORDS[0], bad, *RECORDS[2:]])
    with pytest.raises(UserError, match=rf"bad/train.jsonl:2: {problem}"):
        finetune(replace(config, data=data))
    assert not config.output.exists()


def test_document_of_another_source_without_hints_is_refused(model_path):
    folder = load_model_folder(model_path("gpt2"))
    pairs = [TextPair("0:", "1", ["1"]), TextPair("1:", "0")]
    examples = PausedExamples(pairs, folder, Pausing(num_pauses=1), hints=Hints(folder, 1))
    assert examples[0].labels.tolist()[-3:-2] == folder.encode("1")
    with pytest.raises(UserError, match=r"^training example 2 \('1:'\): expected an object with \"hints\""):
        examples[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hint_weight": -1}, r"--hint-weight -1"),
        ({"num_pauses_ft": "0..3"}, r"--hint-weight 0.5: needs one number of pauses, not 0..3; give --num-pauses-ft 3"),
        ({"num_pauses_ft": 0}, r"--hint-weight 0.5: there are no pauses with --num-pauses-ft 0"),
        ({"pause_placement": "prepend"}, r"not --pause-placement prepend; give --pause-placement append"),
        ({"pause_placement": "before-marker", "pause_marker": ":"}, r"not --pause-placement before-marker"),
    ],
)
def test_settings_without_a_place_for_hints_are_refused(config, settings, message):
    with pytest.raises(UserError, match=message):
        changed(config, **settings)


def test_model_that_pauses_after_every_token_gets_hints_only_at_appended_pauses(folder):
    asked = FinetunePausing(num_pauses_ft=2, hint_weight=1)
    trained = pretrained(folder)
    with pytest.raises(UserError, match=r"--hint-weight 1: .* not --pause-placement every; give --pause-placement app"):
        decided_finetuning(trained, asked)
    assert decided_finetuning(trained, replace(asked, pause_placement="append")).hint_weight == 1


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize(
    ("settings", "lines"),
    [({}, 4), ({"lora_rank": 2}, 4), ({"log_interval": 3}, 2)],
    ids=["all weights", "LoRA", "means over the resume"],
)
def test_resumed_run_ends_with_the_same_weights_and_metrics(config, tmp_path, monkeypatch, settings, lines):
    config = replace(config, steps=4, save_interval=2, **settings)
    finetune(replace(config, output=tmp_path / "whole"))
    step = Trainer.training_step

    def dying(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            raise InterruptionError
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", dying)
        with pytest.raises(InterruptionError):
            finetune(config)
    finetune(config)
    whole, resumed = (load_file(path / "model.safetensors") for path in (tmp_path / "whole", config.output))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    metrics = [read_json_lines(path / "metrics.jsonl") for path in (tmp_path / "whole", config.output)]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == lines
    assert all(line["hint_loss"] > 0 for line in metrics[0])


def test_early_stopping_judges_by_the_targets(config, model_path, tmp_path):
    stopping = {"steps": 2, "save_interval": 1, "early_stopping_patience": 1, "held_out_examples": 1, "batch_size": 1}
    finetune(replace(config, **stopping, learning_rate=1e-9))
    held_out = [
        line["loss"] for line in read_json_lines(config.output / "metrics.jsonl") if line["kind"] == "validation"
    ]
    folder = load_model_folder(config.model)
    candidates = []
    for record in RECORDS:
        ids, _, targets = by_hand(folder, record)
        with torch.no_grad():
            candidates.append(float(folder.model(torch.tensor([ids]), labels=torch.tensor([targets])).loss))
    assert min(abs(held_out[0] - loss) for loss in candidates) < 1e-4


SHARING = {
    "plain": {},
    "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "fsdp": {"fsdp": "full_shard", "fsdp_config": {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}},
}


def finetune_with(config: FinetuneConfig) -> None:
    finetune(config)


@pytest.mark.parametrize("sharing", others_slow(SHARING, quick=["plain"]))
def test_two_processes_give_the_losses_and_weights_of_one(config, model_path, tmp_path, sharing):
    config = replace(config, model=model_path("llama"), steps=3, learning_rate=1e-2)
    finetune(config)
    settings = dict(SHARING[sharing])
    for name, value in settings.items():
        if isinstance(value, dict):
            settings[name] = tmp_path / f"{name}.json"
            settings[name].write_text(json.dumps(value))
    together = replace(config, output=tmp_path / "together", gradient_accumulation_steps=2, **settings)
    run_distributed(finetune_with, 2, together)
    expected, found = (load_file(path / "model.safetensors") for path in (config.output, together.output))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0)
    lines = [read_json_lines(path / "metrics.jsonl") for path in (config.output, together.output)]
    for key in ("loss", "hint_loss"):
        assert [line[key] for line in lines[1]] == pytest.approx([line[key] for line in lines[0]], abs=1e-5)
