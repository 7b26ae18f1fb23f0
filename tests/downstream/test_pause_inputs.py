"""Fillers of any length and repeated tokens in place of pauses: forward passes, labels, decoding and scores by hand."""

import json
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance

from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.batching import prefix_lm_mask
from pause_megatron.downstream.generation import generate_texts
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import PauseCollator, PausedExamples
from pause_megatron.pauses.prompts import IGNORE_INDEX
from pause_megatron.records.files import read_record, write_record
from pause_megatron.records.finetuning import FinetuneRecord
from tests.downstream.attention import attends
from tests.records.examples import example

FILLER = "a :"
NEW_TOKENS = 3
PAIRS = [("It is. a", " b"), ("x. y", " z"), ("is.", " is")]
SETTINGS = [
    {"pause_placement": "append", "filler": FILLER},
    {"pause_placement": "append", "pause_inputs": "repeat"},
    {"pause_placement": "prepend", "filler": FILLER},
    {"pause_placement": "before-marker", "pause_marker": ".", "filler": FILLER},
    {"pause_placement": "after-marker", "pause_marker": ".", "filler": FILLER},
    {"pause_placement": "after-marker", "pause_marker": ".", "pause_inputs": "repeat"},
    {"pause_placement": "every", "filler": FILLER},
    {"pause_placement": "every", "pause_interval": 2, "pause_inputs": "repeat"},
]
NUM_PAUSES = 4


def run_by_hand(folder: ModelFolder, before: int, settings: dict) -> list[int]:
    """The ids at ``NUM_PAUSES`` pauses after the token ``before``."""
    if "filler" not in settings:
        return [before] * NUM_PAUSES
    filler = folder.tokenizer.encode(FILLER)
    assert 1 < len(filler) < NUM_PAUSES
    return (filler * NUM_PAUSES)[:NUM_PAUSES]


def read_by_hand(folder: ModelFolder, context: str, answer: list[int], settings: dict) -> list[int]:
    """The ids that a model reads of a prompt and the answer so far."""
    encode = folder.tokenizer.encode
    placement = settings["pause_placement"]
    if placement == "every":
        ids: list[int] = []
        for number, token in enumerate([*encode(context), *answer], start=1):
            ids.append(token)
            if number % settings.get("pause_interval", 1) == 0:
                ids += run_by_hand(folder, token, settings)
        return ids
    parts = {"append": [context, ""], "prepend": ["", context]}.get(placement)
    if placement == "before-marker":
        parts = [context[: context.rindex(".")], context[context.rindex(".") :]]
    if parts is None:
        parts = [f"{part}." for part in context.split(".")[:-1]] + [context.split(".")[-1]]
    ids = encode(parts[0])
    for part in parts[1:]:
        ids = [*ids, *run_by_hand(folder, ids[-1] if ids else -1, settings), *encode(part)]
    return [*ids, *answer]


@torch.no_grad()
def logits_by_hand(folder: ModelFolder, context: str, answer: list[int], settings: dict, *, both: bool) -> torch.Tensor:
    """Logits of the token after ``answer``, from one row; prompt and pauses attend in both directions with ``both``."""
    ids = read_by_hand(folder, context, answer, settings)
    real = torch.ones(1, len(ids), dtype=torch.bool)
    border = len(read_by_hand(folder, context, [], settings)) if both else 0
    mask = prefix_lm_mask(real, torch.arange(len(ids))[None] < border, torch.float32)
    logits = folder.model(torch.tensor([ids]), attention_mask=mask).logits[0, -1]
    return logits


def attention(settings: dict) -> dict:
    return {} if settings["pause_placement"] == "every" else {"prefix_attention": "bidirectional"}


def decided(folder: ModelFolder, settings: dict) -> Pausing:
    return resolve_pausing(folder, InferencePausing(num_pauses_inf=NUM_PAUSES, **attention(settings), **settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_texts_and_scores_are_those_by_hand(folder, settings):
    pausing = decided(folder, settings)
    asked = InferencePausing(num_pauses_inf=NUM_PAUSES, **attention(settings), **settings)
    contexts = [context for context, _ in PAIRS]
    texts = generate_texts(folder, contexts, pausing=asked, max_new_tokens=NEW_TOKENS)
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(PAIRS)]
    scores = PauseLM(folder, pausing, batch_size=2).loglikelihood(requests)
    for text, (score, _), (context, continuation) in zip(texts, scores, PAIRS, strict=True):
        answer: list[int] = []
        while len(answer) < NEW_TOKENS:
            logits = logits_by_hand(folder, context, answer, settings, both=pausing.bidirectional)
            logits[folder.pause_id] = -torch.inf
            answer.append(int(logits.argmax()))
            if answer[-1] == folder.eod_id:
                break
        assert text == folder.tokenizer.decode(answer, skip_special_tokens=True)
        target, total = folder.encode(context + continuation)[len(folder.encode(context)) :], 0.0
        for place, token in enumerate(target):
            logits = logits_by_hand(folder, context, target[:place], settings, both=pausing.bidirectional)
            total += float(logits.log_softmax(-1)[token])
        assert score == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_finetuning_learns_the_answer_only(folder, settings):
    """Ids, positions, labels and mask of the forward pass of one example."""
    pausing = decided(folder, settings)
    context, continuation = PAIRS[0]
    batch = PauseCollator(folder.eod_id, bidirectional=pausing.bidirectional, dtype=torch.float32)(
        list(PausedExamples([TextPair(context, continuation)], folder, pausing))
    )
    target = [*folder.encode(context + continuation)[len(folder.encode(context)) :], folder.eod_id]
    every = settings["pause_placement"] == "every"
    ids = [*read_by_hand(folder, context, target[:-1], settings), target[-1]]
    border = len(read_by_hand(folder, context, [], settings))
    assert batch["input_ids"].tolist() == [ids]
    assert batch["position_ids"].tolist() == [list(range(len(ids)))]
    labels, number = [IGNORE_INDEX], len(folder.encode(context))
    for token in target:
        labels.append(token)
        number += 1
        if every and number % settings.get("pause_interval", 1) == 0 and token is not target[-1]:
            labels += [IGNORE_INDEX] * NUM_PAUSES
    assert batch["labels"].tolist() == [labels]
    for query in range(len(ids)):
        seen = max(query + 1, border if query < border and not every else 0)
        assert attends(batch["attention_mask"], 0)[query].tolist() == [key < seen for key in range(len(ids))]


def test_a_model_without_pause_can_read_fillers_and_repeated_tokens(folder):
    bare = replace(folder, pause_id=None)
    for settings in ({"filler": FILLER}, {"pause_inputs": "repeat"}):
        pausing = resolve_pausing(bare, InferencePausing(num_pauses_inf=3, **settings))
        assert len(pausing.prefix(bare, "x", [17], room=8)) == 4


def test_files_of_older_versions_have_pauses(tmp_path):
    path = tmp_path / FinetuneRecord.FILE
    write_record(path, example(FinetuneRecord))
    values = json.loads(path.read_text())
    for key in ("filler", "pause_inputs"):
        del values[key]
        del values["pretraining"][key]
    path.write_text(json.dumps(values))
    found = read_record(path, FinetuneRecord)
    assert (found.filler, found.pause_inputs, found.pretraining.filler) == (None, None, None)
