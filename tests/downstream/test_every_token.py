"""Pauses after every token of prompt and answer, compared with their definition, row by row without a cache."""

import copy
from dataclasses import replace

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from pause_megatron.config.pausing import FinetunePausing, InferencePausing
from pause_megatron.downstream.batching import prefix_lm_mask
from pause_megatron.downstream.generation import generate_after, generate_texts
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import decided_finetuning, finetuning_pausing, resolve_pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import PauseCollator, PausedExamples
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import IGNORE_INDEX, Interleaving
from pause_megatron.records.conversion import PretrainingRecord
from pause_megatron.records.finetuning import FinetuneRecord
from tests.downstream.attention import attends
from tests.downstream.random_models import CONTEXT_LENGTH
from tests.records.examples import example

CONTEXTS = [[17, 30, 45, 99, 120], [51], list(range(100, 107)), [44, 45]]
NEW_TOKENS = 5
GROUPS = [(1, 1), (3, 1), (2, 2), (1, 3)]
"""Pauses of a group, and real tokens before it."""
PAIRS = [("The import statement", " binds a name"), ("x", " y z"), ("", "an object")]


def every(num_pauses: int, interval: int = 1, **settings) -> Pausing:
    return Pausing(num_pauses=num_pauses, placement="every", interval=interval, **settings)


def read_by_hand(tokens: list[int], num_pauses: int, interval: int, pause: int | None) -> list[int]:
    """The ids that a model reads of a text: pauses, or copies of the token before them, end each group of tokens."""
    read: list[int] = []
    for number, token in enumerate(tokens, start=1):
        read.append(token)
        if number % interval == 0:
            read += [token if pause is None else pause] * num_pauses
    return read


@torch.no_grad()
def logits_by_hand(folder: ModelFolder, tokens: list[int], group: tuple[int, int], pause: int | None) -> torch.Tensor:
    """Logits of the token after ``tokens``, from one row of stock transformers with its own causal attention."""
    return folder.model(torch.tensor([read_by_hand(tokens, *group, pause)])).logits[0, -1]


def decoded_by_hand(folder, context: list[int], group: tuple[int, int], pause: int | None, tokens=NEW_TOKENS):
    text = list(context)
    while len(text) < len(context) + tokens:
        logits = logits_by_hand(folder, text, group, pause)
        logits[folder.pause_id] = -torch.inf
        text.append(int(logits.argmax()))
        if text[-1] == folder.eod_id:
            return text[len(context) : -1]
    return text[len(context) :]


def pretrained(folder: ModelFolder, **changes) -> ModelFolder:
    """``folder`` as a model pretrained with ``--pauses every``."""
    record = {
        "pauses": "every",
        "pauses_per_token": 2,
        "pause_interval": 1,
        "pause_inputs": "pause",
        "filler": None,
        **changes,
    }
    return replace(folder, pretraining=replace(example(PretrainingRecord), **record))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("repeats", [False, True])
def test_cached_batches_are_decoded_as_by_reading_everything_again(folder, group, repeats):
    pause = None if repeats else folder.pause_id
    interleaving = Interleaving(*group, None if repeats else folder.pause_ids)
    prefixes = [interleaving.insert(context) for context in CONTEXTS]
    settings = {"bidirectional": False, "interleaving": interleaving, "max_new_tokens": NEW_TOKENS}
    found = generate_after(folder, prefixes, do_sample=False, **settings)
    assert found == [decoded_by_hand(folder, context, group, pause) for context in CONTEXTS]
    beams = {**settings, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    assert generate_after(folder, prefixes, **beams) == generate_after(folder, prefixes, **beams, use_cache=False)


def test_sampled_sequences_never_contain_a_pause_and_repeat_with_the_seed(folder):
    settings = {"pausing": InferencePausing(num_pauses_inf=2, pause_placement="every"), "max_new_tokens": 8}
    settings |= {"temperature": 50.0, "seed": 3, "num_return_sequences": 4}
    texts = generate_texts(folder, ["x = ", "The import"], **settings)
    assert len(texts) == 8
    assert texts == generate_texts(folder, ["x = ", "The import"], **settings)
    assert "prepare_inputs_for_generation" not in vars(folder.model)


@pytest.mark.parametrize("group", GROUPS)
def test_harness_generates_and_scores_as_by_hand(folder, group):
    model = PauseLM(folder, every(*group), batch_size=3)
    settings = {"until": ["\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    contexts = [context for context, _ in PAIRS]
    requests = [Instance("generate_until", {}, (text, copy.deepcopy(settings)), i) for i, text in enumerate(contexts)]
    encoded = [folder.encode(text) or [folder.eod_id] for text in contexts]
    texts = [
        folder.tokenizer.decode(decoded_by_hand(folder, ids, group, folder.pause_id), skip_special_tokens=True)
        for ids in encoded
    ]
    assert model.generate_until(requests) == [text.split("\n")[0] for text in texts]

    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(PAIRS)]
    for (score, greedy), (context, continuation) in zip(model.loglikelihood(requests), PAIRS, strict=True):
        ids = folder.encode(context) or [folder.eod_id]
        learned = folder.encode(context + continuation)[len(folder.encode(context)) :]
        total, is_greedy = 0.0, True
        for place, token in enumerate(learned):
            logits = logits_by_hand(folder, ids + learned[:place], group, folder.pause_id)
            total += float(logits.log_softmax(-1)[token])
            is_greedy &= int(logits.argmax()) == token
        assert score == pytest.approx(total, abs=1e-4)
        assert greedy == is_greedy


@pytest.mark.parametrize("group", GROUPS)
def test_finetuning_batches_are_those_written_by_hand(folder, group):
    pairs = [TextPair("0110:", "01"), TextPair("1:", "1")]
    examples = PausedExamples(pairs, folder, every(*group))
    batch = PauseCollator(folder.eod_id, bidirectional=False, dtype=torch.float32)(examples)
    borders = []
    for row, pair in enumerate(pairs):
        context, target = folder.encode(pair.context), [*folder.encode(pair.target), folder.eod_id]
        ids = read_by_hand([*context, *target], *group, folder.pause_id)
        ids = ids[: -group[0]] if (len(context) + len(target)) % group[1] == 0 else ids  # none after the end
        border = len(read_by_hand(context, *group, folder.pause_id))
        borders.append(border)
        first = max(borders) if row else border  # the longer context comes first
        start = first - border
        assert batch["input_ids"][row, start : start + len(ids)].tolist() == ids
        assert batch["position_ids"][row, start : start + len(ids)].tolist() == list(range(len(ids)))
        causal = torch.ones(len(ids), len(ids)).tril().bool()
        attended = attends(batch["attention_mask"], row)[start : start + len(ids)]
        assert torch.equal(attended[:, start : start + len(ids)], causal)
        assert not attended[:, :start].any()
        labels = [IGNORE_INDEX, *(IGNORE_INDEX if token == folder.pause_id else token for token in ids[border:])]
        padded = labels + [IGNORE_INDEX] * (batch["labels"].shape[1] - len(labels))
        assert batch["labels"][row].tolist() == padded


def test_loss_of_finetuning_is_that_of_each_real_token_by_itself(folder):
    pair, group = TextPair("0110:", "01"), (2, 1)
    [found] = PausedExamples([pair], folder, every(*group))
    batch = PauseCollator(folder.eod_id, bidirectional=False, dtype=torch.float32)([found])
    text, target = folder.encode(pair.context), [*folder.encode(pair.target), folder.eod_id]
    losses = []
    for token in target:
        losses.append(-float(logits_by_hand(folder, text, group, folder.pause_id).log_softmax(-1)[token]))
        text = [*text, token]
    with torch.no_grad():
        assert float(folder.model(**batch).loss) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_a_prompt_that_is_too_long_loses_its_beginning_and_no_pause(folder):
    pausing, ids = every(3), list(range(100, 160))
    prefix = pausing.prefix(folder, "", ids, CONTEXT_LENGTH - 4)  # 16 tokens fit with their pauses, 4 of them later
    assert prefix.tolist() == read_by_hand(ids[-12:], 3, 1, folder.pause_id)
    with pytest.raises(UserError, match=r"no room for the prompt: 16 tokens fit with their pauses, and 16 of them"):
        pausing.prefix(folder, "", ids, CONTEXT_LENGTH - 16)


@pytest.mark.parametrize("group", [None, (2, 1), (1, 3)])
def test_complete_texts_are_scored_in_windows_as_by_hand(folder, group):
    texts = ["The import statement binds a name in the local namespace. " * 4, "x", ""]
    pausing = every(*group) if group else Pausing(num_pauses=0, prefix_attention="bidirectional")
    model = PauseLM(folder, pausing, batch_size=2)
    requests = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    found = model.loglikelihood_rolling(requests)
    group = group or (0, 1)
    most = Interleaving(*group, folder.pause_ids).most_tokens(CONTEXT_LENGTH) if group[0] else CONTEXT_LENGTH
    for text, score in zip(texts, found, strict=True):
        ids = folder.encode(text)
        read, total = [folder.eod_id, *ids], 0.0
        for place in range(len(ids)):
            window = place // most * most  # each window reads the last token before it, and `most` tokens in all
            if len(ids) - window < most and window:  # the last window reaches back to fill the context
                window = len(ids) - most
            logits = logits_by_hand(folder, read[window : place + 1], group, folder.pause_id)
            total += float(logits.log_softmax(-1)[ids[place]])
        assert score == pytest.approx(total, abs=2e-3)
    assert (model.text_scores, model.text_tokens) == (found, [len(folder.encode(text)) for text in texts])
    if not group[0]:
        hf = HFLM(folder.model, backend="causal", tokenizer=folder.tokenizer, batch_size=2, max_length=CONTEXT_LENGTH)
        assert found[:2] == pytest.approx(hf.loglikelihood_rolling(requests[:2], disable_tqdm=True), abs=2e-3)


def test_complete_texts_have_no_prompt_to_pause_after(folder):
    with pytest.raises(
        UserError, match="no prompt to pause after; give --num-pauses-inf 0, or --pause-placement every"
    ):
        PauseLM(folder, Pausing(num_pauses=1), batch_size=1).loglikelihood_rolling([])


APPENDED = replace(
    example(FinetuneRecord),
    num_pauses_ft=7,
    pause_placement="append",
    pause_marker=None,
    pause_interval=None,
    filler=None,
    pause_inputs=None,
    prefix_attention="bidirectional",
)
EVERY = replace(APPENDED, num_pauses_ft=3, pause_placement="every", pause_interval=2, prefix_attention="causal")


@pytest.mark.parametrize(
    ("pretraining", "finetuning", "asked", "expected"),
    [
        ({}, None, {}, every(2)),
        ({"pause_interval": 4, "pause_inputs": "repeat"}, None, {}, every(2, 4, repeats_tokens=True)),
        ({}, None, {"num_pauses_inf": 1, "pause_interval": 3}, every(1, 3)),
        ({"pause_inputs": "repeat"}, None, {"filler": "17"}, every(2, filler="17", filler_ids=(17,))),
        ({"pause_inputs": "repeat"}, None, {"pause_inputs": "pause"}, every(2)),
        ({"filler": "17"}, None, {}, every(2, filler="17", filler_ids=(17,))),
        ({"filler": "17"}, None, {"pause_inputs": "repeat"}, every(2, repeats_tokens=True)),
        ({"pause_inputs": "repeat"}, EVERY, {}, every(3, 2, repeats_tokens=True)),
        ({"pause_inputs": "repeat"}, replace(EVERY, pause_inputs="pause"), {}, every(3, 2)),
        ({}, replace(EVERY, pause_inputs="repeat"), {}, every(3, 2, repeats_tokens=True)),
        ({"filler": "17"}, EVERY, {}, every(3, 2)),
        ({}, replace(EVERY, filler="17"), {"num_pauses_inf": 1}, every(1, 2, filler="17", filler_ids=(17,))),
        ({}, None, {"num_pauses_inf": 4, "pause_placement": "append"}, Pausing(num_pauses=4)),
        ({}, EVERY, {}, every(3, 2)),
        ({}, APPENDED, {}, Pausing(num_pauses=7, prefix_attention="bidirectional")),
        ({}, APPENDED, {"num_pauses_inf": 2, "pause_placement": "every"}, every(2)),
        ({"pauses": "sequence", "pauses_per_token": None, "pause_interval": None}, None, {}, Pausing(num_pauses=0)),
        (None, None, {"num_pauses_inf": 2, "pause_placement": "every"}, every(2)),
    ],
)
def test_a_model_pauses_as_it_was_trained_unless_flags_say_otherwise(folder, pretraining, finetuning, asked, expected):
    trained = folder if pretraining is None else pretrained(folder, **pretraining)
    assert resolve_pausing(replace(trained, finetuning=finetuning), InferencePausing(**asked)) == expected


@pytest.mark.parametrize(
    ("finetuning", "asked", "message"),
    [
        (None, {"pause_placement": "append"}, "was trained with 2 pauses for the placement every; give --num-pauses"),
        (APPENDED, {"pause_placement": "every"}, "was trained with 7 pauses for the placement append; give --num-"),
        (APPENDED, {"pause_interval": 2}, "--pause-interval 2: .* has the placement append; give --pause-placement"),
        (EVERY, {"prefix_attention": "bidirectional"}, "bidirectional: .* answer too, which attends causally; remove"),
    ],
)
def test_settings_that_contradict_training_are_refused(folder, finetuning, asked, message):
    with pytest.raises(UserError, match=message):
        resolve_pausing(replace(pretrained(folder), finetuning=finetuning), InferencePausing(**asked))


@pytest.mark.parametrize("kind", [FinetunePausing, InferencePausing])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pause_placement": "every", "prefix_attention": "bidirectional"}, "bidirectional: .* attends causally"),
        (
            {"pause_placement": "append", "pause_interval": 2},
            "--pause-interval 2: not used by --pause-placement append",
        ),
        (
            {"pause_placement": "every", "pause_marker": "A:"},
            "--pause-marker 'A:': not used by --pause-placement every",
        ),
        ({"pause_placement": "every", "pause_interval": 0}, "--pause-interval 0: must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(kind, settings, message):
    with pytest.raises(UserError, match=message):
        kind(**settings)


def test_finetuning_pauses_as_pretraining_did_by_default(folder):
    def decided(base: ModelFolder, **asked) -> Pausing:
        return finetuning_pausing(base, decided_finetuning(base, FinetunePausing(**asked)))

    paper = Pausing(num_pauses=10, prefix_attention="bidirectional")
    assert decided(folder) == paper
    assert decided(pretrained(folder)) == every(2)
    assert decided(pretrained(folder, pause_interval=3), num_pauses_ft="0..4") == every(4, 3)
    assert decided(pretrained(folder), pause_placement="append") == paper
    repeating = pretrained(folder, pause_inputs="repeat")
    assert decided(repeating) == every(2, repeats_tokens=True)
    assert decided(repeating, pause_inputs="pause") == every(2)
    assert decided(repeating, pause_placement="append") == paper
    assert decided(pretrained(folder, filler="17")) == every(2, filler="17", filler_ids=(17,))
    assert decided(pretrained(folder, filler="17"), num_pauses_ft=0) == every(0)
    with pytest.raises(UserError, match="--pause-interval 2: needs --pause-placement every; give it too"):
        decided(folder, pause_interval=2)


def sharing(folder: ModelFolder) -> ModelFolder:
    """``folder`` as a model pretrained with ``--pause-positions shared``."""
    model = copy.deepcopy(folder.model)
    model.config.pause_positions = "shared"
    return replace(folder, model=model)


def shared_by_hand(tokens: list[int], is_pause: list[bool]) -> list[int]:
    real = -1
    return [max(0, real := real + (not pause)) for _, pause in zip(tokens, is_pause, strict=True)]


@torch.no_grad()
def shared_logits(folder: ModelFolder, ids: list[int], is_pause: list[bool], border: int = 0) -> torch.Tensor:
    """Logits after one row with shared positions; the first ``border`` tokens attend in both directions."""
    real = torch.ones(1, len(ids), dtype=torch.bool)
    mask = prefix_lm_mask(real, torch.arange(len(ids))[None] < border, torch.float32)
    positions = torch.tensor([shared_by_hand(ids, is_pause)])
    return folder.model(torch.tensor([ids]), attention_mask=mask, position_ids=positions).logits[0, -1]


@pytest.mark.parametrize("group", [(2, 1), (1, 3)])
def test_shared_positions_after_every_token_equal_reading_everything_again(folder, group):
    folder = sharing(folder)
    interleaving = Interleaving(*group, folder.pause_ids)
    prefixes = [interleaving.insert(context) for context in CONTEXTS]
    settings = {"bidirectional": False, "interleaving": interleaving, "max_new_tokens": NEW_TOKENS, "do_sample": False}
    found = generate_after(folder, prefixes, **settings)
    for context, continuation in zip(CONTEXTS, found, strict=True):
        text = list(context)
        while len(text) < len(context) + NEW_TOKENS and text[-1] != folder.eod_id:
            ids = read_by_hand(text, *group, folder.pause_id)
            logits = shared_logits(folder, ids, [token == folder.pause_id for token in ids])
            logits[folder.pause_id] = -torch.inf
            text.append(int(logits.argmax()))
        assert continuation == [token for token in text[len(context) :] if token != folder.eod_id]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("placement", ["append", "prepend"])
def test_shared_positions_of_a_block_of_pauses_equal_reading_everything_again(folder, placement, bidirectional):
    folder = sharing(folder)
    pausing = Pausing(num_pauses=3, placement=placement)
    prefixes = [pausing.prefix(folder, "", context, CONTEXT_LENGTH - NEW_TOKENS) for context in CONTEXTS]
    settings = {"bidirectional": bidirectional, "max_new_tokens": NEW_TOKENS, "do_sample": False}
    beams = generate_after(folder, prefixes, **settings, num_beams=2)
    assert beams == generate_after(folder, prefixes, **settings, num_beams=2, use_cache=bidirectional)
    for prefix, continuation in zip(prefixes, generate_after(folder, prefixes, **settings), strict=True):
        ids, is_pause = prefix.tolist(), prefix.is_pause.tolist()
        while len(ids) < len(prefix) + NEW_TOKENS and ids[-1] != folder.eod_id:
            logits = shared_logits(folder, ids, is_pause, len(prefix) if bidirectional else 0)
            logits[folder.pause_id] = -torch.inf
            ids, is_pause = [*ids, int(logits.argmax())], [*is_pause, False]
        assert continuation == [token for token in ids[len(prefix) :] if token != folder.eod_id]


def test_scores_and_finetuning_share_positions(folder):
    folder = sharing(folder)
    [found] = PausedExamples([TextPair("0110:", "01")], folder, every(2))
    collate = PauseCollator(folder.eod_id, bidirectional=False, dtype=torch.float32, shares_positions=True)
    ids = found.input_ids.tolist()
    batch = collate([found])
    assert batch["position_ids"].tolist() == [shared_by_hand(ids, [token == folder.pause_id for token in ids])]
    appended = collate(list(PausedExamples([TextPair("0110:", "01")], folder, Pausing(num_pauses=3))))
    length = len(folder.encode("0110:"))
    assert appended["position_ids"].tolist() == [[*range(length), *[length - 1] * 3, length, length + 1, length + 2]]

    context, continuation = PAIRS[0]
    [(score, _)] = PauseLM(folder, every(2), batch_size=1).loglikelihood(
        [Instance("loglikelihood", {}, (context, continuation), 0)]
    )
    text, total = folder.encode(context), 0.0
    for token in folder.encode(context + continuation)[len(text) :]:
        read = read_by_hand(text, 2, 1, folder.pause_id)
        logits = shared_logits(folder, read, [token == folder.pause_id for token in read])
        total, text = total + float(logits.log_softmax(-1)[token]), [*text, token]
    assert score == pytest.approx(total, abs=1e-4)


def test_the_context_of_shared_positions_counts_real_tokens(folder):
    folder = sharing(folder)
    ids = list(range(100, 160))
    prefix = every(3).prefix(folder, "", ids, CONTEXT_LENGTH - 4)
    assert prefix.tolist() == read_by_hand(ids, 3, 1, folder.pause_id)
    assert every(3).prefix(folder, "", ids, CONTEXT_LENGTH - 10).num_real == CONTEXT_LENGTH - 10
    assert Pausing(num_pauses=30).prefix(folder, "", ids, CONTEXT_LENGTH - 4).num_real == len(ids)
    texts = ["a class is a kind of object, and an object is a value. " * 3]
    [score] = PauseLM(folder, every(3), batch_size=1).loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (texts[0],), 0)]
    )
    text, total = [folder.eod_id], 0.0
    encoded = folder.encode(texts[0])[:CONTEXT_LENGTH]
    assert len(encoded) < CONTEXT_LENGTH  # one window of the model, of more than its positions together with pauses
    for token in encoded:
        read = read_by_hand(text, 3, 1, folder.pause_id)
        logits = shared_logits(folder, read, [token == folder.pause_id for token in read])
        total, text = total + float(logits.log_softmax(-1)[token]), [*text, token]
    assert score == pytest.approx(total, abs=2e-3)
