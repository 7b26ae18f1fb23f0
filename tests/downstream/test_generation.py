import json
import math
import re

import pytest
import torch
from transformers import PreTrainedModel

from pause_megatron.config.downstream import GenerateConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.batching import align, prefix_lm_mask
from pause_megatron.downstream.generation import generate_after, generate_command, generate_texts, generation_arguments
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import pause_prefix
from tests.downstream.random_models import CONTEXT_LENGTH
from tests.quick import others_slow

CONTEXTS = [[17, 30, 45, 99, 120], [51], list(range(100, 111)), [44, 45]]
NEW_TOKENS = 6


def prefixes_with(folder: ModelFolder, num_pauses: int):
    common = {"pause_ids": folder.pause_ids, "eod_id": folder.eod_id, "room": CONTEXT_LENGTH - NEW_TOKENS}
    return [pause_prefix(context, num_pauses, **common) for context in CONTEXTS]


@torch.no_grad()
def recomputed(folder: ModelFolder, prefix, bidirectional: bool) -> list[int]:
    """Decode one row without cache or padding: recompute the complete sequence for every token."""
    ids = torch.tensor(prefix if isinstance(prefix, list) else prefix.tolist())[None]
    for _ in range(NEW_TOKENS):
        real = torch.ones_like(ids, dtype=torch.bool)
        in_prefix = real & (torch.arange(ids.shape[1]) < len(prefix)) & bidirectional
        mask = prefix_lm_mask(real, in_prefix, folder.model.dtype)
        logits = folder.model(ids, attention_mask=mask).logits[:, -1]
        logits[:, folder.pause_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
        if ids[0, -1] == folder.eod_id:
            return ids[0, len(prefix) : -1].tolist()
    return ids[0, len(prefix) :].tolist()


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_pauses", [0, 1, 5])
def test_cached_batch_equals_recomputing_every_step(folder, num_pauses, bidirectional):
    prefixes = prefixes_with(folder, num_pauses)
    generated = generate_after(
        folder, prefixes, bidirectional=bidirectional, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    assert generated == [recomputed(folder, prefix, bidirectional) for prefix in prefixes]


@pytest.mark.parametrize("context", [[17], []])
def test_prefix_of_one_token_can_be_continued(folder, context):
    prefix = pause_prefix(context, 0, pause_ids=[], eod_id=folder.eod_id, room=8)
    [generated] = generate_after(folder, [prefix], bidirectional=True, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert generated == recomputed(folder, prefix, bidirectional=True)


def test_first_token_scores_are_those_of_the_prefix_attended_both_ways(folder):
    """Sampling must get the scores of the first token, and they must be the bidirectional ones."""
    prefixes = prefixes_with(folder, 3)
    batch = align(prefixes, [[]] * len(prefixes), folder.eod_id)
    arguments = generation_arguments(folder, batch, bidirectional=True, settings={})
    output = folder.model.generate(
        batch.input_ids, **arguments, max_new_tokens=1, return_dict_in_generate=True, output_logits=True
    )
    with torch.no_grad():
        expected = folder.model(**batch.model_inputs(bidirectional=True, dtype=torch.float32)).logits[:, -1]
        causal = folder.model(**batch.model_inputs(bidirectional=False, dtype=torch.float32)).logits[:, -1]
    torch.testing.assert_close(output.logits[0], expected, rtol=1e-4, atol=1e-5)
    assert (expected - causal).abs().max() > 0.01


def test_causal_generation_without_pauses_equals_stock_generate(folder):
    prefixes = prefixes_with(folder, 0)
    ours = generate_after(folder, prefixes, bidirectional=False, max_new_tokens=NEW_TOKENS, do_sample=False)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "suppress_tokens": [folder.pause_id]}
    for prefix, continuation in zip(prefixes, ours, strict=True):
        stock = folder.model.generate(torch.tensor(prefix.ids)[None], **settings, pad_token_id=folder.eod_id)
        assert stock[0, len(prefix) : len(prefix) + len(continuation)].tolist() == continuation


@pytest.mark.parametrize("bidirectional", others_slow([True, False], quick=[True]))
def test_pause_is_never_emitted_at_high_temperature(folder, bidirectional):
    """At temperature 50 all 512 tokens are about equally likely, so 20,000 draws without a pause cannot be chance."""
    prefixes = prefixes_with(folder, 4) * 100
    torch.manual_seed(0)
    sampling = {"do_sample": True, "temperature": 50.0, "top_k": 0, "max_new_tokens": 50, "min_new_tokens": 50}
    generated = generate_after(folder, prefixes, bidirectional=bidirectional, **sampling)
    drawn = [token for tokens in generated for token in tokens]
    assert len(drawn) > 15_000
    assert folder.pause_id not in drawn
    assert len(set(drawn)) > 500


def test_command_prints_only_the_text_after_the_pauses(folder, capsys):
    prompt = "The import statement"
    generate_command(
        GenerateConfig(
            model=folder.path, prompt=(prompt,), pausing=InferencePausing(num_pauses_inf=4), max_new_tokens=NEW_TOKENS
        )
    )
    context = folder.tokenizer.encode(prompt, add_special_tokens=False)
    prefix = pause_prefix(context, 4, pause_ids=folder.pause_ids, eod_id=folder.eod_id, room=CONTEXT_LENGTH)
    assert capsys.readouterr().out == folder.tokenizer.decode(recomputed(folder, prefix, bidirectional=False)) + "\n"


def test_same_seed_samples_the_same_text(folder, capsys):
    settings = {"model": folder.path, "prompt": ("",), "temperature": 1.0, "max_new_tokens": 20}
    texts = []
    for seed in (3, 3, 4):
        generate_command(GenerateConfig(**settings, seed=seed))
        texts.append(capsys.readouterr().out)
    first, again, other = texts
    assert first == again
    assert first != other


def test_more_pauses_than_the_context_holds_are_refused(folder):
    with pytest.raises(UserError, match="no room for the prompt: 60 pauses in the 60 positions"):
        generate_command(
            GenerateConfig(
                model=folder.path, prompt=("x",), pausing=InferencePausing(num_pauses_inf=60), max_new_tokens=4
            )
        )


PROMPTS = ["The import statement. Answer: a name", "Answer: x", "a class. Answer: is Answer: a", "Answer:"]
PLACEMENTS = [
    *(("append", None), ("prepend", None), ("before-marker", "Answer:")),
    *(("after-marker", "Answer:"), ("after-marker", "s")),
]


def ids_by_hand(folder: ModelFolder, prompt: str, num_pauses: int, placement: str, marker: str | None) -> list[int]:
    """Return the prompt's ids with pauses, written out for each placement."""
    pauses = [folder.pause_id] * num_pauses

    def encode(text: str) -> list[int]:
        return folder.tokenizer.encode(text, add_special_tokens=False)

    if placement == "append":
        return [*encode(prompt), *pauses]
    if placement == "prepend":
        return [*pauses, *encode(prompt)]
    if placement == "after-marker":
        ids: list[int] = []
        while marker in prompt:
            border = prompt.index(marker) + len(marker)
            ids, prompt = [*ids, *encode(prompt[:border]), *pauses], prompt[border:]
        return [*ids, *encode(prompt)]
    border = prompt.rindex("Answer:")
    return [*encode(prompt[:border]), *pauses, *encode(prompt[border:])]


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("num_pauses", [0, 3])
@pytest.mark.parametrize(("placement", "marker"), PLACEMENTS)
def test_texts_for_every_placement_equal_recomputing_every_step(folder, placement, marker, num_pauses, attention):
    prompts = [prompt.replace("x", "this") for prompt in PROMPTS]
    texts = generate_texts(
        folder,
        prompts,
        pausing=InferencePausing(
            num_pauses_inf=num_pauses, pause_placement=placement, pause_marker=marker, prefix_attention=attention
        ),
        max_new_tokens=NEW_TOKENS,
    )
    prefixes = [ids_by_hand(folder, prompt, num_pauses, placement, marker) for prompt in prompts]
    expected = [recomputed(folder, prefix, attention == "bidirectional") for prefix in prefixes]
    assert len({len(prefix) for prefix in prefixes}) > 1
    assert texts == [folder.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]


def test_the_placements_give_different_texts(folder):
    """Otherwise the equalities above would prove little."""

    def said(**settings):
        return generate_texts(folder, PROMPTS, pausing=InferencePausing(**settings), max_new_tokens=20)

    texts = [
        said(num_pauses_inf=3, pause_placement=placement, pause_marker=marker) for placement, marker in PLACEMENTS[:-1]
    ]
    texts.append(said(num_pauses_inf=0))
    assert len(set(map(tuple, texts))) == len(PLACEMENTS)


def beams_by_hand(folder: ModelFolder, prefix: list[int], num_beams: int, bidirectional: bool) -> list[list[int]]:
    """Return the beams of a search in which no beam ends early, best first; one prompt, without cache and padding."""
    beams = [(0.0, list(prefix))]
    for _ in range(NEW_TOKENS):
        grown = []
        for total, ids in beams:
            scores = log_probabilities(folder.model, ids, len(prefix), bidirectional)[-1]
            scores[[folder.pause_id, folder.eod_id]] = -torch.inf
            top = scores.topk(num_beams)
            grown += [
                (total + score, [*ids, token])
                for score, token in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ]
        beams = sorted(grown, key=lambda beam: -beam[0])[:num_beams]
    return [ids[len(prefix) :] for _, ids in beams]


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, ids: list[int], prefix_length: int, bidirectional: bool) -> torch.Tensor:
    """Return those of every next token at every position of one row: [sequence, vocabulary]."""
    real = torch.ones(1, len(ids), dtype=torch.bool)
    mask = prefix_lm_mask(real, real & (torch.arange(len(ids)) < prefix_length) & bidirectional, model.dtype)
    return model(torch.tensor([ids]), attention_mask=mask).logits[0].log_softmax(dim=-1)


BEAMS = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 4}


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_pauses", others_slow([0, 3], quick=[3]))
def test_beam_search_of_a_batch_equals_searching_by_hand(folder, num_pauses, bidirectional):
    prefixes = prefixes_with(folder, num_pauses)
    settings = {**BEAMS, "min_new_tokens": NEW_TOKENS, "num_return_sequences": 2}
    found = generate_after(folder, prefixes, bidirectional=bidirectional, **settings)
    expected = [beams_by_hand(folder, prefix.tolist(), BEAMS["num_beams"], bidirectional)[:2] for prefix in prefixes]
    assert found == [tokens for best in expected for tokens in best]
    greedy = generate_after(folder, prefixes, bidirectional=bidirectional, **{**BEAMS, "num_beams": 1})
    assert greedy == [recomputed(folder, prefix, bidirectional) for prefix in prefixes]
    assert found[::2] != greedy


@pytest.mark.parametrize("bidirectional", [True, False])
def test_beams_that_may_end_have_recomputed_scores_in_a_batch_and_one_by_one(folder, bidirectional):
    prefixes = prefixes_with(folder, 3)
    batch = align(prefixes, [[]] * len(prefixes), folder.eod_id)
    arguments = generation_arguments(folder, batch, bidirectional=bidirectional, settings=BEAMS)
    output = folder.model.generate(
        batch.input_ids,
        **arguments,
        **BEAMS,
        pad_token_id=folder.eod_id,
        eos_token_id=folder.eod_id,
        output_scores=True,
        return_dict_in_generate=True,
    )
    together = generate_after(folder, prefixes, bidirectional=bidirectional, **BEAMS)
    for prefix, found, score, row in zip(
        prefixes, together, output.sequences_scores.tolist(), output.sequences[:, batch.border :].tolist(), strict=True
    ):
        assert generate_after(folder, [prefix], bidirectional=bidirectional, **BEAMS) == [found]
        said = row[: len(found) + (folder.eod_id in row)]  # the end of the document is judged too
        assert said[: len(found)] == found
        scores = log_probabilities(folder.model, [*prefix.tolist(), *said], len(prefix), bidirectional)[
            len(prefix) - 1 : -1
        ]
        judged = scores.gather(1, torch.tensor(said)[:, None])
        assert float(judged.mean()) == pytest.approx(score, abs=1e-4)


def test_causal_beams_without_pauses_equal_those_of_stock_generate(folder):
    prefixes = prefixes_with(folder, 0)
    ours = generate_after(folder, prefixes, bidirectional=False, **BEAMS)
    for prefix, continuation in zip(prefixes, ours, strict=True):
        stock = folder.model.generate(
            torch.tensor(prefix.ids)[None], **BEAMS, suppress_tokens=[folder.pause_id], pad_token_id=folder.eod_id
        )
        assert stock[0, len(prefix) : len(prefix) + len(continuation)].tolist() == continuation


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_samples_of_a_prompt_are_in_a_row_and_repeat_with_the_seed(folder, attention):
    pausing = InferencePausing(num_pauses_inf=2, prefix_attention=attention)

    def sampled(seed: int, prompts: list[str], **limits: float) -> list[str]:
        common = {"pausing": pausing, "max_new_tokens": 8, "num_return_sequences": 3}
        return generate_texts(folder, prompts, temperature=1.0, seed=seed, **common, **limits)

    texts = sampled(5, PROMPTS)
    assert texts == sampled(5, PROMPTS)
    assert texts != sampled(6, PROMPTS)
    assert len(texts) == 3 * len(PROMPTS)
    assert len(set(texts)) > len(PROMPTS)
    greedy = generate_texts(folder, PROMPTS, pausing=pausing, max_new_tokens=8)
    in_a_row = [text for text in greedy for _ in range(3)]
    assert texts != in_a_row
    assert sampled(5, PROMPTS, top_k=1) == in_a_row
    assert sampled(5, PROMPTS, top_p=1e-6) == in_a_row


def test_tokens_suppressed_by_settings_and_pauses_are_suppressed_together(folder):
    prefixes = prefixes_with(folder, 2)
    common = {"bidirectional": True, "max_new_tokens": 1, "do_sample": False}
    likeliest = generate_after(folder, prefixes, **common)
    forbidden = sorted({token for tokens in likeliest for token in tokens})
    others = generate_after(folder, prefixes, **common, suppress_tokens=forbidden)
    assert not {folder.pause_id, *forbidden} & {token for tokens in others for token in tokens}


def test_one_prompt_is_printed_as_text_and_several_as_json_lines(folder, capsys):
    marked = InferencePausing(num_pauses_inf=3, pause_placement="before-marker", pause_marker="Answer:")
    settings = {"pausing": marked, "max_new_tokens": NEW_TOKENS, "num_beams": 2}
    generate_command(GenerateConfig(model=folder.path, prompt=tuple(PROMPTS), **settings))
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = generate_texts(folder, PROMPTS, **settings)
    assert records == [{"prompt": prompt, "continuation": text} for prompt, text in zip(PROMPTS, texts, strict=True)]
    generate_command(GenerateConfig(model=folder.path, prompt=(PROMPTS[1],), **settings))
    assert capsys.readouterr().out == texts[1] + "\n"


def test_prompt_without_the_marker_is_refused(folder):
    marked = InferencePausing(num_pauses_inf=3, pause_placement="before-marker", pause_marker="Answer:")
    with pytest.raises(UserError, match="--pause-marker 'Answer:': not in the prompt 'no such thing'"):
        generate_texts(folder, ["Answer: x", "no such thing"], pausing=marked, max_new_tokens=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens 0: must be at least 1"),
        ({"temperature": 1e-40}, "--temperature 1e-40: must be 0, or from 0.0001 to 10000.0"),
        ({"temperature": math.nan}, "--temperature nan: must be at least 0"),
        ({"temperature": math.inf}, "--temperature inf: must be 0, or from"),
        ({"temperature": -1.0}, "--temperature -1.0: must be at least 0"),
        ({"temperature": 1.0, "top_p": math.nan}, "--top-p nan: must be above 0"),
        ({"temperature": 1.0, "top_k": -1}, "--top-k -1: must be at least 0"),
        ({"num_beams": 0}, "--num-beams 0: must be at least 1"),
        ({"prompts": ["fine", "half \ud83d"]}, "--prompt: text 2 is not valid Unicode"),
    ],
)
def test_settings_that_cannot_work_are_refused(model_path, settings, message):
    folder = load_model_folder(model_path("gpt2"))
    with pytest.raises(UserError, match=re.escape(message)):
        generate_texts(folder, settings.pop("prompts", PROMPTS), **settings)
    with pytest.raises(UserError, match="--num-pauses-inf -1: must be at least 0"):
        InferencePausing(num_pauses_inf=-1)


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_the_largest_and_smallest_temperatures_give_text(model_path, temperature):
    folder = load_model_folder(model_path("gpt2"))
    assert len(generate_texts(folder, PROMPTS, temperature=temperature, seed=0, max_new_tokens=3)) == len(PROMPTS)


def test_no_prompts_have_no_continuations(folder):
    assert generate_texts(folder, []) == []
