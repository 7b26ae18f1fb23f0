import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pause_megatron import process_memory
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer, gigatoken_encoder
from pause_megatron.tokenizer.encoders import choose_encoder, least_block_bytes, open_encoder
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from tests.tokenizer.foreign import BPE_KINDS, sentencepiece_model, write

pytest.importorskip("numba", reason="numba is not installed; the word table was not checked")
pytest.importorskip("gigatoken", reason="gigatoken is not installed; the fast encoder was not checked")

NEWER = "a\u05ae\u1ac0 is put in another order by a newer Unicode"
"""The reference (tokenizers 0.23) does not know that U+1AC0 is a combining mark."""
FRAGMENTS = [
    *("<pause>", "</s>", "<s>", "<unk>", "<0x0A>", "<|endoftext|>", "<|im_end|>", "<think>", "▁", "Ġ"),
    *(" ", "  ", "\n", "\r\n", "\t", "\x00", "\x85", "\u00a0", "\u3000", "\u2028", "\u200b", "\u200d", "\ufeff"),
    *("'s", "\u017f", "é", "e\u0301", "\u0301", "\u1ac0", "\u05ae", "ﬁ", "½", "١٢", "一", "あ", "한", "\U0001f469"),
    *("\u088f", "\U000323b0", "\U00011de0", "\U0010ffff", "\ue000", "_", "--", "...", "(", "1", "22", "4444", "word"),
]


@pytest.fixture(scope="module")
def encoders(tokenizers):
    """The fast and the reference encoder of every BPE tokenizer."""
    names = [(tokenizers[kind], tokenizers[kind].encoder_name) for kind in BPE_KINDS]
    return [(open_encoder(tokenizer, "gigatoken"), open_encoder(tokenizer, name)) for tokenizer, name in names]


def assert_equal(encoders, texts):
    for fast, reference in encoders:
        (ids, lengths), (expected, expected_lengths) = fast.encode_batch(texts), reference.encode_batch(texts)
        assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)
        assert lengths.tolist() == expected_lengths.tolist()
        assert ids.tolist() == expected.tolist()


def test_fast_encoder_equals_the_reference_on_real_text_and_edge_cases(encoders, pydoc_texts, c4_texts):
    assert_equal(encoders, [*EDGE_CASE_TEXTS, *FRAGMENTS, NEWER, *pydoc_texts, *c4_texts[:300]])
    assert_equal(encoders, [])
    assert_equal(encoders, [""])


def test_fast_encoder_equals_the_reference_on_few_letters(encoders):
    letters = np.random.default_rng(1).choice(list("aab \n-"), size=(400, 50))
    assert_equal(encoders, ["".join(row) for row in letters])


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5)).map("".join)))
def test_fast_encoder_equals_the_reference_on_any_text(encoders, texts):
    assert_equal(encoders, texts)


def test_texts_with_newer_characters_are_encoded_by_the_reference(tokenizers, monkeypatch):
    fast = open_encoder(tokenizers["qwen2"], "gigatoken")
    texts = ["first", NEWER, "between", NEWER, "last"]
    expected = [tokenizers["qwen2"].encode(text) for text in texts]
    ids, lengths = fast.encode_batch(texts)
    assert ids.tolist() == [token for text_ids in expected for token in text_ids]
    assert lengths.tolist() == [len(text_ids) for text_ids in expected]
    monkeypatch.setattr(gigatoken_encoder, "NEWER_CHARACTERS", re.compile("(?!)"))
    assert fast.encode_batch(texts)[0].tolist() != ids.tolist()


def ids_and_openings(tokenizer, texts):
    """Encode each text alone; returns how many tokenizers did it."""
    fast = open_encoder(tokenizer, "gigatoken")
    opened = []
    for text in texts:
        assert fast.encode_batch([text])[0].tolist() == tokenizer.encode(text)
        opened.append(fast._tokenizer)
    return len({id(each) for each in opened})


def test_tokenizer_is_opened_again_when_the_process_has_grown(tokenizers, pydoc_texts, monkeypatch):
    assert ids_and_openings(tokenizers["gpt2"], pydoc_texts[:5]) == 1
    monkeypatch.setattr(gigatoken_encoder, "MAX_CACHE_BYTES", -(1 << 40))
    assert ids_and_openings(tokenizers["gpt2"], pydoc_texts[:5]) == 5


def test_tokenizer_is_opened_again_after_some_tokens_without_proc(tokenizers, pydoc_texts, monkeypatch):
    monkeypatch.setattr(process_memory, "_PAGES", Path("/nowhere/statm"))
    monkeypatch.setattr(gigatoken_encoder, "MAX_CACHED_TOKENS", 1000)
    assert 1 < ids_and_openings(tokenizers["gpt2"], pydoc_texts[:10]) < 10


ENDLESS = """
import sys
import numpy as np
from pause_megatron.tokenizer import PauseTokenizer, gigatoken_encoder
from pause_megatron.process_memory import resident_bytes
from pause_megatron.tokenizer.encoders import open_encoder
gigatoken_encoder.MAX_CACHE_BYTES = int(sys.argv[2]) << 20
fast = open_encoder(PauseTokenizer.load(sys.argv[1]), "gigatoken")
random, letters, grown = np.random.default_rng(1), np.arange(97, 123, dtype=np.uint8), []
for _ in range(25):
    words = letters[random.integers(0, 26, (40_000, 9))]
    words[:, 0] = 32
    ids = fast.encode_batch([words.tobytes().decode()])[0]
    grown.append(resident_bytes())
print((max(grown) - grown[0]) / 2**20)
"""


def test_memory_is_bounded_on_endless_text_of_new_words(tokenizers):
    def grown(limit):  # MiB, with a cache of at most ``limit`` MiB, from the first of 25 batches on
        child = [sys.executable, "-c", ENDLESS, str(tokenizers["gpt2"].path), str(limit)]
        return float(subprocess.run(child, capture_output=True, text=True, check=True).stdout)

    assert grown(20) < 40
    assert grown(1 << 20) > 80  # a million words without the limit


@given(text=st.text() | st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_newer_characters_are_found_without_the_older_ones(text):
    kept = gigatoken_encoder._without_older(text)
    newer = gigatoken_encoder.NEWER_CHARACTERS
    assert newer.findall(kept) == newer.findall(text)


def test_only_sentencepiece_models_ask_for_large_blocks(tokenizers):
    asked = {kind: least_block_bytes(open_encoder(tokenizers[kind], "gigatoken")) for kind in BPE_KINDS}
    assert asked["gpt2"] == 0
    assert asked["sentencepiece-llama"] == gigatoken_encoder.SENTENCEPIECE_BLOCK_BYTES
    assert least_block_bytes(tokenizers["trained"]) == 0


def test_reference_is_chosen_on_request_and_where_no_fast_encoder_exists(tokenizers, capsys):
    for tokenizer in tokenizers.values():
        assert choose_encoder(tokenizer, "reference", ["text"]) == tokenizer.encoder_name
    assert choose_encoder(tokenizers["t5"], "auto", ["text"]) == "tokenizers"
    for kind in ("trained", "t5", "sentencepiece-t5"):
        with pytest.raises(UserError, match="supports only byte-pair encoding"):
            choose_encoder(tokenizers[kind], "gigatoken", ["text"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wanted", ["auto", "word-table"])
def test_word_table_is_chosen_for_unigram_models(tokenizers, pydoc_texts, wanted):
    for kind in ("trained", "sentencepiece-t5"):
        assert choose_encoder(tokenizers[kind], wanted, pydoc_texts[:20]) == "word-table"
        assert open_encoder(tokenizers[kind], "word-table").encoder_name == "word-table"


@pytest.mark.parametrize("wanted", ["auto", "gigatoken"])
def test_fast_encoder_is_chosen_if_it_equals_the_reference(tokenizers, pydoc_texts, wanted):
    for kind in BPE_KINDS:
        assert choose_encoder(tokenizers[kind], wanted, iter([*pydoc_texts[:20], NEWER])) == "gigatoken"


def test_error_shows_the_first_different_document(tokenizers, pydoc_texts, monkeypatch, capsys):
    monkeypatch.setattr(gigatoken_encoder, "NEWER_CHARACTERS", re.compile("(?!)"))
    texts = [*["short"] * 300, NEWER, "text", NEWER]
    message = "encoder gigatoken: encodes document 301 of the run differently from tokenizers: 'a"
    with pytest.raises(UserError, match=re.escape(message)):
        choose_encoder(tokenizers["qwen2"], "gigatoken", texts)
    assert choose_encoder(tokenizers["qwen2"], "auto", texts) == "tokenizers"
    err = capsys.readouterr().err
    assert message in err
    assert "warning" in err
    assert err.endswith("; using tokenizers\n")


@pytest.mark.parametrize(
    ("encoder", "package", "kind", "reference"),
    [("gigatoken", "gigatoken", "gpt2", "tokenizers"), ("word-table", "numba", "trained", "sentencepiece")],
)
def test_missing_package_is_a_warning_or_a_user_error(
    tokenizers, monkeypatch, capsys, encoder, package, kind, reference
):
    monkeypatch.setitem(sys.modules, package, None)
    for module in (
        "pause_megatron.compiled_loops",
        "pause_megatron.tokenizer.word_loops",
    ):  # others have imported numba
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.delattr(module, raising=False)
    assert choose_encoder(tokenizers[kind], "auto", ["text"]) == reference
    assert "pip install 'pause_megatron[fast]'" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"--encoder {encoder}: needs the package {package}"):
        open_encoder(tokenizers[kind], encoder)


def test_unknown_encoder_is_a_user_error(tokenizers):
    with pytest.raises(UserError, match=r"encoder tokenizers: does not support .*; use sentencepiece or word-table"):
        open_encoder(tokenizers["trained"], "tokenizers")


def test_normalising_models_are_encoded_by_the_reference(tmp_path, pydoc_texts):
    settings = {"vocab_size": 500, "normalization_rule_name": "nfkc", "control_symbols": "<pause>"}
    model = sentencepiece_model("sentencepiece-llama", pydoc_texts[:10], **settings)
    tokenizer = PauseTokenizer.load(write(tmp_path / "tokenizer.model", model))
    with pytest.raises(UserError, match=r"normalises texts \(Precompiled\)"):
        open_encoder(tokenizer, "gigatoken")


def test_an_input_error_is_not_reported_as_an_encoder_error(tokenizers):
    def broken_input():
        yield "text"
        raise UserError("a.jsonl, line 2: not valid JSON")

    for wanted in ("auto", "gigatoken"):
        with pytest.raises(UserError, match=r"^a\.jsonl, line 2: not valid JSON$"):
            choose_encoder(tokenizers["gpt2"], wanted, broken_input())
