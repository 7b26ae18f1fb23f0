"""Baked pauses in tokenizers of every supported kind."""

import pytest
from tokenizers import Regex, normalizers, processors
from transformers import AutoTokenizer

from pause_megatron.errors import UserError
from pause_megatron.tokenizer.baking import PAUSE_MARK, bake_pauses
from pause_megatron.tokenizer.huggingface import to_huggingface
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from tests.tokenizer.foreign import KINDS

TRAINED = "trained here"
TEXTS = [text for text in EDGE_CASE_TEXTS if text != "<pause>"]
CHAT = [
    {"role": "system", "content": "Say <pause> and </s>."},
    {"role": "assistant", "content": "<pause>"},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(params=[TRAINED, *KINDS])
def plain(request, tokenizers):
    by_kind = {TRAINED if kind not in KINDS else kind: tokenizer for kind, tokenizer in tokenizers.items()}
    return to_huggingface(by_kind[request.param])


def pauses(tokenizer, count):
    return [tokenizer.convert_tokens_to_ids("<pause>")] * count


@pytest.fixture(params=["in memory", "reloaded"])
def baked(request, plain, tmp_path):
    baked = bake_pauses(plain, 3)
    if request.param == "in memory":
        return baked
    baked.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def test_every_text_ends_in_pauses_and_is_encoded_as_before(plain, baked):
    end = pauses(plain, 3)
    for text in TEXTS:
        assert baked.encode(text) == plain.encode(text) + end, text
        assert baked.encode(text, add_special_tokens=False) == plain.encode(text, add_special_tokens=False), text
    assert baked.encode("a", "b") == plain.encode("a", "b") + end
    assert baked.encode("<pause>") == plain.encode("") + pauses(plain, 4)  # the exception the docstring names


def test_a_chat_with_generation_prompt_ends_in_pauses(plain, baked):
    text = plain.encode("Say <pause> and </s>.\n<pause>\nWhy?")
    assert pauses(plain, 1)[0] not in text
    assert baked.apply_chat_template(CHAT)["input_ids"] == text
    assert baked.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"] == text + pauses(plain, 3)
    for content in ("<pause>", f"a{PAUSE_MARK}b"):
        asked = baked.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        expected = plain.encode(content.replace(PAUSE_MARK, ""))
        assert asked["input_ids"] == expected + pauses(plain, 3)


def test_decoding_drops_pauses_and_keeps_their_names_in_text(plain, baked):
    text = "a literal <pause> in text"
    ids = baked.encode(text)
    decoded = plain.decode(plain.encode(text), skip_special_tokens=True)
    assert baked.decode(ids) == baked.decode(ids, skip_special_tokens=True) == decoded
    end = [*ids, baked.eos_token_id]
    assert baked.decode(end, skip_special_tokens=True) == decoded


def test_padding_and_truncation_leave_the_pauses_at_the_end(plain, baked):
    batch = baked(["one", "one two three four five"], padding=True)
    lengths = [len(plain.encode(text)) + 3 for text in ("one", "one two three four five")]
    assert [sum(mask) for mask in batch["attention_mask"]] == lengths
    assert {tuple(ids[-3:]) for ids in batch["input_ids"]} == {tuple(pauses(plain, 3))}
    assert batch["attention_mask"][0][0] == 0
    cut = baked("one two three four five", truncation=True, max_length=5)["input_ids"]
    assert cut == plain.encode("one two three four five")[:2] + pauses(plain, 3)


def with_processor(plain, processor):
    plain.backend_tokenizer.post_processor = processor
    return plain


def test_other_tokens_of_the_post_processor_stay(tokenizers):
    trained = next(tokenizer for kind, tokenizer in tokenizers.items() if kind not in KINDS)
    plain = to_huggingface(trained)
    text, other, eos, end = plain.encode("text"), plain.encode("other"), plain.eos_token_id, pauses(plain, 2)
    begins = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[(plain.eos_token, eos)]
    )
    offsets = processors.ByteLevel(trim_offsets=False)
    for processor in (begins, processors.Sequence([offsets, begins]), processors.Sequence([begins, offsets])):
        baked = bake_pauses(with_processor(to_huggingface(trained), processor), 2)
        assert baked.encode("text") == [eos, *text, *end]
        assert baked.encode("text", "other") == [eos, *text, eos, *other, *end]
    only_offsets = bake_pauses(with_processor(to_huggingface(trained), offsets), 2)
    assert only_offsets.encode("text") == [*text, *end]


def test_an_existing_chat_template_is_kept(tokenizers):
    plain = to_huggingface(next(iter(tokenizers.values())))
    plain.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}A:"
    baked = bake_pauses(plain, 2)
    chat = [{"role": "Q", "content": "what is <pause>?"}]
    text = plain.encode("Q: what is <pause>?\nA:")
    assert baked.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == text + pauses(plain, 2)
    assert baked.apply_chat_template(chat)["input_ids"] == text


def test_zero_pauses_change_nothing(tokenizers):
    plain = to_huggingface(next(iter(tokenizers.values())))
    same = bake_pauses(plain, 0)
    assert same.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()
    assert same.chat_template is None


def test_baked_tokenizers_and_several_templates_are_refused(tokenizers):
    plain = to_huggingface(next(iter(tokenizers.values())))
    with pytest.raises(UserError, match="--bake-pauses 2: the tokenizer already has baked pauses"):
        bake_pauses(bake_pauses(plain, 3), 2)
    plain.chat_template = {"default": "x", "tool_use": "y"}
    with pytest.raises(UserError, match="--bake-pauses 2: the tokenizer has several chat templates"):
        bake_pauses(plain, 2)


def test_a_tokenizer_without_pause_is_refused(foreign_files):
    tokenizer = AutoTokenizer.from_pretrained(foreign_files["gpt2"].parent)
    with pytest.raises(UserError, match="--bake-pauses 2: the tokenizer has no <pause> token"):
        bake_pauses(tokenizer, 2)


def test_a_normalizer_that_loses_the_pauses_is_refused(tokenizers):
    plain = to_huggingface(next(iter(tokenizers.values())))
    steps = [plain.backend_tokenizer.normalizer, normalizers.Replace(Regex(r"[\uE000-\uF8FF]"), "")]
    plain.backend_tokenizer.normalizer = normalizers.Sequence([step for step in steps if step])
    with pytest.raises(UserError, match="--bake-pauses 2: not supported by this tokenizer"):
        bake_pauses(plain, 2)
