import copy
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.batching import prefix_lm_mask
from pause_megatron.downstream.generation import generate_after, generate_texts
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import pause_prefix
from tests.downstream.random_models import CONTEXT_LENGTH

LONG = "an expression that is much longer than all the positions this model has, " * 4
PAIRS = [("The import statement", " binds a name"), ("x", " y z"), ("", "an object"), (LONG, " value")]
CONTEXTS = ["The import statement", "x", "a class is a", LONG]


def scored(model, pairs=PAIRS):
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    return model.loglikelihood(requests, disable_tqdm=True)


def generated(model, contexts=CONTEXTS):
    settings = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (context, copy.deepcopy(settings)), index)
        for index, context in enumerate(contexts)
    ]
    return model.generate_until(requests, disable_tqdm=True)


@torch.no_grad()
def score_by_hand(folder: ModelFolder, context: str, continuation: str, num_pauses: int, bidirectional: bool):
    """Score one row without padding: sum the log-softmax at the continuation's positions."""
    whole = folder.tokenizer.encode(context + continuation, add_special_tokens=False)
    prefix = folder.tokenizer.encode(context, add_special_tokens=False)
    target = whole[len(prefix) :]
    prefix = prefix + [folder.pause_id] * num_pauses
    ids = torch.tensor([prefix + target])
    real = torch.ones_like(ids, dtype=torch.bool)
    mask = prefix_lm_mask(real, real & (torch.arange(ids.shape[1]) < len(prefix)) & bidirectional, torch.float32)
    log_probabilities = folder.model(ids, attention_mask=mask).logits[0].log_softmax(-1)
    return sum(float(log_probabilities[len(prefix) - 1 + i, token]) for i, token in enumerate(target))


def test_causal_scores_without_pauses_equal_those_of_hf(folder):
    hf = HFLM(folder.model, backend="causal", tokenizer=folder.tokenizer, batch_size=3, max_length=CONTEXT_LENGTH)
    ours = PauseLM(folder, Pausing(num_pauses=0), batch_size=3)
    for (score, greedy), (expected, expected_greedy) in zip(scored(ours), scored(hf), strict=True):
        assert score == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy


def test_causal_texts_without_pauses_equal_those_of_hf(folder):
    hf = HFLM(folder.model, backend="causal", tokenizer=folder.tokenizer, batch_size=2, max_length=CONTEXT_LENGTH)
    assert generated(PauseLM(folder, Pausing(num_pauses=0), batch_size=2)) == generated(hf)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("num_pauses", [1, 7])
def test_scores_after_pauses_are_those_computed_by_hand(folder, num_pauses, attention):
    pairs, pausing = PAIRS[:2], Pausing(num_pauses=num_pauses, prefix_attention=attention)
    for (score, _), pair in zip(scored(PauseLM(folder, pausing, batch_size=8), pairs), pairs, strict=True):
        by_hand = score_by_hand(folder, *pair, num_pauses, attention == "bidirectional")
        assert score == pytest.approx(by_hand, abs=1e-4)


def test_greedy_flag_is_true_if_decoding_gives_the_continuation(folder):
    context = folder.tokenizer.encode("The import statement", add_special_tokens=False)
    prefix = pause_prefix(context, 2, pause_ids=folder.pause_ids, eod_id=folder.eod_id, room=CONTEXT_LENGTH)
    [decoded] = generate_after(folder, [prefix], bidirectional=True, max_new_tokens=4, do_sample=False)
    wrong_at_the_end = [*decoded[:-1], (decoded[-1] + 1) % 500]
    model = PauseLM(folder, Pausing(num_pauses=2, prefix_attention="bidirectional"), batch_size=3)
    requests = [(("", ""), context, continuation) for continuation in (decoded, wrong_at_the_end, decoded[:1])]
    assert [greedy for _, greedy in model._loglikelihood_tokens(requests)] == [True, False, True]


def test_pauses_change_scores_and_texts(folder):
    without, with_pauses = (
        PauseLM(folder, Pausing(num_pauses=count, prefix_attention="bidirectional"), batch_size=4) for count in (0, 5)
    )
    assert all(abs(a - b) > 1e-3 for (a, _), (b, _) in zip(scored(without), scored(with_pauses), strict=True))
    assert generated(without) != generated(with_pauses)


def test_batching_changes_nothing(folder):
    one, all_at_once = (
        PauseLM(folder, Pausing(num_pauses=3, prefix_attention="bidirectional"), batch_size=size) for size in (1, 4)
    )
    assert generated(one) == generated(all_at_once)
    for (a, _), (b, _) in zip(scored(one), scored(all_at_once), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_an_empty_context_can_be_generated_from(folder):
    [text] = generated(PauseLM(folder, Pausing(num_pauses=3, prefix_attention="bidirectional"), batch_size=1), [""])
    assert text


def test_more_pauses_than_the_context_holds_are_refused(folder):
    with pytest.raises(UserError, match="no room for the prompt"):
        generated(PauseLM(folder, Pausing(num_pauses=60, prefix_attention="bidirectional"), batch_size=1))


@pytest.fixture
def broken(folder) -> ModelFolder:
    """A model that gives NaN whenever it reads the token ``x``."""
    model = copy.deepcopy(folder.model)
    [x] = folder.tokenizer.encode("x", add_special_tokens=False)
    model.get_input_embeddings().register_forward_hook(  # the weights may be those of the output layer too
        lambda _, inputs, output: output.masked_fill((inputs[0] == x)[..., None], torch.nan)
    )
    return replace(folder, model=model)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_logits_that_are_not_finite_give_no_result(broken, attention):
    model = PauseLM(broken, Pausing(num_pauses=2, prefix_attention=attention), batch_size=2)
    fine = [("The import", " statement"), ("a class", " is")]
    assert len(scored(model, fine)) == len(generated(model, [context for context, _ in fine])) == 2
    message = rf"^{broken.path}: the logits after the prompt 'x y' are not finite; use --precision fp32"
    with pytest.raises(UserError, match=message):
        scored(model, [*fine, ("x y", " z")])
    with pytest.raises(UserError, match=message):
        generated(model, ["The import", "a class", "x y"])
    for settings in ({}, {"num_beams": 2}, {"temperature": 1.0, "num_return_sequences": 3}):
        with pytest.raises(UserError, match=message):
            pausing = InferencePausing(prefix_attention=attention)
            generate_texts(broken, ["a class", "x y"], pausing=pausing, max_new_tokens=4, **settings)


def test_scoring_whole_texts_is_refused(folder):
    with pytest.raises(UserError, match="no prompt to pause after"):
        PauseLM(folder, Pausing(num_pauses=1), batch_size=1).loglikelihood_rolling([])


@pytest.mark.parametrize(("placement", "marker"), [("prepend", None), ("before-marker", "is"), ("after-marker", "a ")])
def test_pauses_have_the_configured_placement(folder, placement, marker):
    """For scores and texts, the test compares the ids that the model reads."""
    model = PauseLM(folder, Pausing(num_pauses=3, placement=placement, marker=marker), batch_size=1)
    asks = (lambda: scored(model, [("a class is a", " thing")]), lambda: generated(model, ["a class is a"]))
    for ask in asks:
        ask()  # the first time, the model is also tried with other texts
    read, first_read = [], []
    handle = folder.model.register_forward_pre_hook(
        lambda _, inputs, named: read.append(named.get("input_ids", inputs[0] if inputs else None)), with_kwargs=True
    )
    try:
        for ask in asks:
            read.clear()
            ask()
            first_read.append(read[0])
    finally:
        handle.remove()
    encode = folder.tokenizer.encode
    parts = {
        "prepend": ("", "a class is a"),
        "before-marker": ("a class ", "is a"),
        "after-marker": ("a ", "class is a"),
    }
    before, after = parts[placement]
    expected = encode(before) + [folder.pause_id] * 3 + encode(after)
    for ids in first_read:
        assert ids[0, : len(expected)].tolist() == expected


@pytest.mark.parametrize(("placement", "marker"), [("before-marker", "is"), ("after-marker", "class")])
def test_spaces_that_the_harness_moves_into_the_answer_are_read_once(folder, placement, marker):
    model = PauseLM(folder, Pausing(num_pauses=2, placement=placement, marker=marker), batch_size=1)
    (moved, _), (as_given, _) = scored(model, [("a class is ", "it"), ("a class is", " it")])
    assert moved == as_given
