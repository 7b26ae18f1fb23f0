"""Finetuning with pauses before the least likely tokens of the target, against one row at a time and labels by hand."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import GPT2LMHeadModel

from pause_megatron.cli.main import main
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing, InferencePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import decided_finetuning, finetuning_pausing, resolve_pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import PauseCollator, PausedExamples
from pause_megatron.downstream.unlikely_tokens import places_of, unlikely_places
from pause_megatron.errors import EXIT_DONE, UserError
from pause_megatron.pauses.prompts import IGNORE_INDEX
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_record
from pause_megatron.records.finetuning import FinetuneRecord
from tests.downstream.attention import attends
from tests.downstream.random_models import CONTEXT_LENGTH, random_model
from tests.records.examples import example

PAIRS = [
    TextPair("The import statement", " binds a name in the local scope"),
    TextPair("x", " y"),
    TextPair("", "an object is a value, and a class is an object"),
    TextPair("a class. " * 30, " of objects"),
]
BEFORE = FinetunePausing(pause_placement="before-unlikely", num_pauses_ft=2, unlikely_tokens=3)


@torch.no_grad()
def places_by_hand(folder: ModelFolder, pair: TextPair, count: int) -> list[int]:
    """Read one row with stock causal attention, and take the target tokens with the lowest log-probabilities."""
    context = folder.encode(pair.context)
    target = [*folder.encode(pair.context + pair.target)[len(context) :], folder.eod_id]
    context = (context or [folder.eod_id])[-(CONTEXT_LENGTH - len(target) + 1) :]
    log_probabilities = folder.model(torch.tensor([[*context, *target[:-1]]])).logits[0].log_softmax(-1)
    scores = [float(log_probabilities[len(context) - 1 + place, token]) for place, token in enumerate(target)]
    return sorted(sorted(range(len(target)), key=lambda place: scores[place])[:count])


@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_least_likely_tokens_are_those_of_one_row_at_a_time(folder, count):
    found = unlikely_places(PAIRS, folder, count, batch_size=3)
    assert found == [places_by_hand(folder, pair, count) for pair in PAIRS]
    assert len({tuple(places) for places in found}) > 1


def test_another_model_finds_other_tokens_and_reads_as_it_was_trained(folder):
    other = replace(folder, model=random_model("llama", folder.model.config.vocab_size, seed=7))
    assert unlikely_places(PAIRS, other, 3) != unlikely_places(PAIRS, folder, 3)
    record = replace(
        example(FinetuneRecord), pause_placement="append", filler=None, pause_inputs=None, prefix_attention="causal"
    )
    paused = replace(folder, finetuning=replace(record, num_pauses_ft=4))
    assert unlikely_places(PAIRS, paused, 3) != unlikely_places(PAIRS, folder, 3)


def before(num_pauses: int, count: int, **settings) -> Pausing:
    return Pausing(num_pauses=num_pauses, placement="before-unlikely", unlikely_tokens=count, **settings)


@pytest.mark.parametrize("filler", [None, (7, 8, 9)])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_pauses_come_before_these_tokens_and_have_no_labels(folder, filler, attention):
    """Ids, positions, labels and mask of the forward pass."""
    pausing = before(2, 3, prefix_attention=attention, filler_ids=filler)
    pairs, pauses = PAIRS[:1], list(filler or [folder.pause_id] * 2)[:2]
    [places] = unlikely_places(pairs, folder, 3)
    examples = PausedExamples(pairs, folder, pausing, places=[places])
    batch = PauseCollator(folder.eod_id, bidirectional=pausing.bidirectional, dtype=torch.float32)(list(examples))
    context = folder.encode(pairs[0].context)
    target = [*folder.encode(pairs[0].context + pairs[0].target)[len(context) :], folder.eod_id]
    ids, labels = list(context), [IGNORE_INDEX]
    for place, token in enumerate(target):
        if place in places:
            ids, labels = [*ids, *pauses], [*labels, IGNORE_INDEX, IGNORE_INDEX]
        ids, labels = [*ids, token], [*labels, token]
    assert batch["input_ids"].tolist() == [ids]
    assert batch["labels"].tolist() == [labels]
    assert batch["position_ids"].tolist() == [list(range(len(ids)))]
    for query in range(len(ids)):
        seen = max(query + 1, len(context) if query < len(context) and pausing.bidirectional else 0)
        assert attends(batch["attention_mask"], 0)[query].tolist() == [key < seen for key in range(len(ids))]


def test_the_loss_is_that_of_real_tokens_read_after_their_pauses(folder):
    pausing = before(2, 3)
    places = unlikely_places(PAIRS, folder, 3)
    examples = PausedExamples(PAIRS, folder, pausing, places=places)
    collate = PauseCollator(folder.eod_id, bidirectional=False, dtype=torch.float32)
    total, tokens = 0.0, 0
    with torch.no_grad():
        together = float(folder.model(**collate(list(examples))).loss)
        for example in examples:
            ids = example.input_ids
            assert len(ids) <= CONTEXT_LENGTH
            log_probabilities = folder.model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
            for position in range(len(example.prefix), len(ids)):
                if ids[position] != folder.pause_id:
                    total -= float(log_probabilities[position - 1, ids[position]])
                    tokens += 1
    assert together == pytest.approx(total / tokens, abs=1e-5)


def test_a_pause_can_be_the_first_of_a_target_and_room_counts_the_pauses(folder):
    [found] = PausedExamples([PAIRS[3]], folder, before(4, 2), places=[[0, 2]])
    assert len(found.input_ids) == CONTEXT_LENGTH
    assert found.target.tolist()[:5] == [*[folder.pause_id] * 4, found.target.ids[4]]
    assert found.target.is_pause.tolist()[:5] == [True] * 4 + [False]
    assert int(found.target.is_pause.sum()) == 8


def test_numbers_of_pauses_can_be_drawn(folder):
    places = [[0, 1]] * 30
    examples = PausedExamples([PAIRS[1]] * 30, folder, before(3, 2), fewest=0, places=places)
    assert {int(one.target.is_pause.sum()) for one in examples} == {0, 2, 4, 6}


def test_defaults_are_those_of_the_published_code(folder):
    decided = decided_finetuning(folder, FinetunePausing(pause_placement="before-unlikely"))
    assert finetuning_pausing(folder, decided) == before(1, 5, prefix_attention="bidirectional")
    assert decided_finetuning(folder, FinetunePausing()).unlikely_tokens is None


def test_inference_has_no_pauses_unless_asked_for(folder):
    record = replace(
        example(FinetuneRecord),
        num_pauses_ft=2,
        pause_placement="before-unlikely",
        filler=None,
        pause_inputs=None,
        prefix_attention="bidirectional",
    )
    tuned = replace(folder, finetuning=record)
    assert resolve_pausing(tuned, InferencePausing()) == Pausing(num_pauses=0, prefix_attention="bidirectional")
    assert resolve_pausing(tuned, InferencePausing(num_pauses_inf=3)).placement == "append"
    with pytest.raises(UserError, match="before-unlikely: only 'finetune' knows the answer to put pauses into; give"):
        InferencePausing(pause_placement="before-unlikely")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unlikely_tokens": 3}, "--unlikely-tokens 3: needs --pause-placement before-unlikely; give it too"),
        ({"scoring_model": "m", "pause_placement": "append"}, "--scoring-model m: needs --pause-placement before-unli"),
        ({"pause_placement": "before-unlikely", "unlikely_tokens": 0}, "--unlikely-tokens 0: must be at least 1"),
        ({"pause_placement": "before-unlikely", "hint_weight": 1.0}, "--hint-weight 1: hints label pauses between"),
        ({"pause_placement": "before-unlikely", "pause_inputs": "repeat"}, "--pause-inputs repeat: there may be no"),
        ({"pause_placement": "before-unlikely", "pause_marker": "A:"}, "--pause-marker 'A:': not used by"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        FinetunePausing(**settings)


def test_finetuning_scores_with_the_model_that_it_is_told_to(model_path, tokenizer, tmp_path, monkeypatch, capsys):
    """Trained for a step, recorded, and read by later stages; the ids are those of the scoring model's choice."""
    base, scorer = load_model_folder(model_path("gpt2")), load_model_folder(model_path("llama"))
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"question": "0110:", "answer": "0"}) + "\n")
    read: list[list[int]] = []
    forward = GPT2LMHeadModel.forward

    def recording(self, input_ids=None, **inputs):
        if self.training:
            read.append(input_ids[0].tolist())
        return forward(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", recording)
    settings = {"task": "parity", "data": tmp_path, "steps": 1, "batch_size": 1, "warmup_steps": 0}
    common = {"pause_placement": "before-unlikely", "num_pauses_ft": 2, "unlikely_tokens": 1}
    expected = {}
    for name, scoring in (("own", None), ("other", scorer.path)):
        tuned = tmp_path / name
        pausing = FinetunePausing(scoring_model=scoring, **common)
        finetune(FinetuneConfig(model=base.path, output=tuned, pausing=pausing, **settings))
        context, target = base.encode("0110:"), [*base.encode("0110:0")[-1:], base.eod_id]
        [[place]] = unlikely_places([TextPair("0110:", "0")], base if scoring is None else scorer, 1)
        expected[name] = [*context, *target[:place], *[base.pause_id] * 2, *target[place:]]
        assert read.pop() == expected[name]
        record = read_record(tuned / FinetuneRecord.FILE, FinetuneRecord)
        assert (record.pause_placement, record.num_pauses_ft, record.unlikely_tokens) == ("before-unlikely", 2, 1)
        assert record.scoring_model == (None if scoring is None else str(scoring))
        output = tmp_path / f"{name}.json"
        where = ["--task", "parity", "--data", str(tmp_path), "--output", str(output)]
        assert main(["evaluate", "--model", str(tuned), *where]) == EXIT_DONE
        result = read_record(output, EvaluationRecord)
        assert (result.num_pauses_ft, result.num_pauses_inf, result.pause_placement) == (2, 0, "append")
    assert "finding the 1 least likely tokens of 1 answers" in capsys.readouterr().err


def test_a_scoring_model_of_another_tokenizer_is_refused(model_path, tmp_path):
    other = tmp_path / "other"
    folder = load_model_folder(model_path("gpt2"))
    folder.model.save_pretrained(other)
    folder.tokenizer.save_pretrained(other)
    for file in other.glob("*token*.json"):
        file.write_text(file.read_text().replace("<pause>", "<wait>"))
    pausing = decided_finetuning(folder, replace(BEFORE, scoring_model=other))
    config = FinetuneConfig(model=folder.path, task="parity", output=tmp_path / "out", pausing=pausing)
    with pytest.raises(UserError, match=f"--scoring-model {other}: has another tokenizer than"):
        places_of(PAIRS, folder, config)
