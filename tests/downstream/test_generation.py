import pytest
import torch

from pause_megatron.config.downstream import GenerateConfig
from pause_megatron.downstream.attention import prefix_lm_mask
from pause_megatron.downstream.batching import line_up
from pause_megatron.downstream.generation import generate_after, generate_command, generation_arguments
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import pause_prefix
from tests.downstream.random_models import CONTEXT_LENGTH

CONTEXTS = [[17, 30, 45, 99, 120], [51], list(range(100, 111)), [44, 45]]
NEW_TOKENS = 6


def prefixes_with(folder: ModelFolder, num_pauses: int):
    common = {"pause_id": folder.pause_id, "eod_id": folder.eod_id, "room": CONTEXT_LENGTH - NEW_TOKENS}
    return [pause_prefix(context, num_pauses, **common) for context in CONTEXTS]


@torch.no_grad()
def recomputed(folder: ModelFolder, prefix, bidirectional: bool) -> list[int]:
    """One row by itself, without cache or padding: the whole sequence again for every token."""
    ids = torch.tensor(prefix)[None]
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
    prefix = pause_prefix(context, 0, pause_id=None, eod_id=folder.eod_id, room=8)
    [generated] = generate_after(folder, [prefix], bidirectional=True, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert generated == recomputed(folder, prefix, bidirectional=True)


def test_first_token_scores_are_those_of_the_prefix_attended_both_ways(folder):
    """Sampling must see the first token's scores, and they must be the bidirectional ones."""
    prefixes = prefixes_with(folder, 3)
    batch = line_up(prefixes, [[]] * len(prefixes), folder.eod_id)
    arguments = generation_arguments(folder.model, batch, folder.pause_id, bidirectional=True)
    output = folder.model.generate(
        batch.input_ids, **arguments, max_new_tokens=1, return_dict_in_generate=True, output_logits=True
    )
    with torch.no_grad():
        expected = folder.model(**batch.model_inputs(bidirectional=True, dtype=torch.float32)).logits[:, -1]
        causal = folder.model(**batch.model_inputs(bidirectional=False, dtype=torch.float32)).logits[:, -1]
    torch.testing.assert_close(output.logits[0], expected, rtol=1e-4, atol=1e-5)
    assert (expected - causal).abs().max() > 0.01


def test_without_pauses_and_causally_it_is_stock_generate(folder):
    prefixes = prefixes_with(folder, 0)
    ours = generate_after(folder, prefixes, bidirectional=False, max_new_tokens=NEW_TOKENS, do_sample=False)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "suppress_tokens": [folder.pause_id]}
    for prefix, continuation in zip(prefixes, ours, strict=True):
        stock = folder.model.generate(torch.tensor(prefix)[None], **settings, pad_token_id=folder.eod_id)
        assert stock[0, len(prefix) : len(prefix) + len(continuation)].tolist() == continuation


@pytest.mark.parametrize("bidirectional", [True, False])
def test_pause_is_never_emitted_however_hot_the_sampling(folder, bidirectional):
    """At temperature 50 all 512 tokens are about equally likely: 20,000 draws without one pause are no accident."""
    prefixes = prefixes_with(folder, 4) * 100
    torch.manual_seed(0)
    sampling = {"do_sample": True, "temperature": 50.0, "top_k": 0, "max_new_tokens": 50, "min_new_tokens": 50}
    generated = generate_after(folder, prefixes, bidirectional=bidirectional, **sampling)
    drawn = [token for tokens in generated for token in tokens]
    assert len(drawn) > 15_000
    assert folder.pause_id not in drawn
    assert len(set(drawn)) > 500


def test_what_is_said_before_the_last_pause_does_not_come_out(folder, capsys):
    """The command prints what follows the pauses, and nothing of the prompt."""
    prompt = "The import statement"
    generate_command(GenerateConfig(model=folder.path, prompt=prompt, num_pauses_inf=4, max_new_tokens=NEW_TOKENS))
    context = folder.tokenizer.encode(prompt, add_special_tokens=False)
    prefix = pause_prefix(context, 4, pause_id=folder.pause_id, eod_id=folder.eod_id, room=CONTEXT_LENGTH)
    assert capsys.readouterr().out == folder.tokenizer.decode(recomputed(folder, prefix, bidirectional=False)) + "\n"


def test_same_seed_samples_the_same_text(folder, capsys):
    settings = {"model": folder.path, "prompt": "", "temperature": 1.0, "max_new_tokens": 20}
    texts = []
    for seed in (3, 3, 4):
        generate_command(GenerateConfig(**settings, seed=seed))
        texts.append(capsys.readouterr().out)
    first, again, other = texts
    assert first == again
    assert first != other


def test_more_pauses_than_the_context_holds_are_refused(folder):
    with pytest.raises(UserError, match="no room for the prompt: 60 pauses in the 60 positions"):
        generate_command(GenerateConfig(model=folder.path, prompt="x", num_pauses_inf=60, max_new_tokens=4))
