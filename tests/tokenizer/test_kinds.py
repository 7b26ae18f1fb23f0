"""Properties of tokenizers of every kind."""

import numpy as np
import pytest
from transformers import AutoTokenizer, GPT2Config, LlamaConfig

from pause_megatron.tokenizer import chunking
from pause_megatron.tokenizer.huggingface import prove_equal, to_huggingface
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from tests.tokenizer.foreign import KINDS

ALL_KINDS = (*KINDS, "trained")
LOSSLESS = ("gpt2", "llama2", "sentencepiece-llama", "trained")
NAMES = "<pause></s> <s>x<|endoftext|> <|im_end|><unk> a<pad>b <extra_id_0> <0x41> <extra_id_1><pause>"


@pytest.fixture(params=ALL_KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(tokenizers, kind):
    return tokenizers[kind]


def special_ids(tokenizer):
    """Ids that no text may be encoded to; without the id of unknown characters."""
    hf_tokenizer = to_huggingface(tokenizer)
    return {*hf_tokenizer.all_special_ids, tokenizer.pause_id, tokenizer.eod_id} - {tokenizer.backend.unk_id}


def test_names_of_special_tokens_in_a_text_are_text(tokenizer, pydoc_texts):
    special = special_ids(tokenizer)
    assert len(special) >= 2
    for text in (NAMES, *EDGE_CASE_TEXTS, *pydoc_texts[:10]):
        assert not special & set(tokenizer.encode(text))


def test_spelled_out_names_decode_to_themselves(tokenizer, kind):
    assert tokenizer.decode(tokenizer.encode(NAMES)) == NAMES or kind in ("t5", "sentencepiece-t5")


def test_special_tokens_decode_to_nothing(tokenizer):
    ids = tokenizer.encode("one two")
    assert tokenizer.decode([tokenizer.pause_id, *ids, tokenizer.pause_id, tokenizer.eod_id]) == "one two"


def test_text_comes_back_unchanged_where_nothing_is_normalised(tokenizers, pydoc_texts):
    for lossless in LOSSLESS:
        tokenizer = tokenizers[lossless]
        for text in (*EDGE_CASE_TEXTS, *pydoc_texts[:10]):
            expected = text if lossless == "gpt2" else text.replace("▁", " ")
            assert tokenizer.decode(tokenizer.encode(text)) == expected, lossless


def test_batch_encoding_equals_single_encodings_below_the_vocabulary_size(tokenizer, pydoc_texts):
    texts = [*EDGE_CASE_TEXTS, *pydoc_texts[:10]]
    ids, lengths = tokenizer.encode_batch(texts)
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)
    assert lengths.tolist() == [len(tokenizer.encode(text)) for text in texts]
    assert ids.tolist() == [i for text in texts for i in tokenizer.encode(text)]
    assert ids.max() < tokenizer.vocab_size
    assert max(tokenizer.pause_id, tokenizer.eod_id) < tokenizer.vocab_size
    assert [array.size for array in tokenizer.encode_batch([])] == [0, 0]


def test_encoding_adds_no_token_and_does_not_truncate(tokenizers, pydoc_texts):
    for tokenizer in tokenizers.values():
        assert tokenizer.encode("") == []
        assert len(tokenizer.encode(" ".join(pydoc_texts[:2]))) > 512


def test_exports_are_equal_as_stock_transformers_loads_them(tokenizer, kind, pydoc_texts, c4_texts, tmp_path):
    to_huggingface(tokenizer).save_pretrained(tmp_path)
    # The kind of model in a folder decides, for some versions of transformers, how its tokenizer is loaded.
    (GPT2Config() if "gpt2" in kind else LlamaConfig()).save_pretrained(tmp_path)
    hf_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [NAMES, *pydoc_texts[:10], *c4_texts[:200]]
    assert prove_equal(tokenizer, hf_tokenizer, texts) == len(texts) + len(EDGE_CASE_TEXTS)
    assert hf_tokenizer.convert_tokens_to_ids("<pause>") == tokenizer.pause_id
    assert hf_tokenizer.eos_token_id == hf_tokenizer.pad_token_id == tokenizer.eod_id
    assert len(hf_tokenizer) == tokenizer.vocab_size
    assert tokenizer.pause_id in hf_tokenizer.all_special_ids


@pytest.mark.parametrize("length", [1, 50])
def test_cutting_long_texts_changes_no_id(tokenizer, pydoc_texts, c4_texts, monkeypatch, length):
    texts = [*EDGE_CASE_TEXTS, "_\ny a_ b\nc 1 2\r\n3 é é\n\n。\n漢 字" * 3, *pydoc_texts[:5], *c4_texts[:50]]
    whole = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(chunking, "CHUNK_CHARACTERS", length)
    assert sum(len(list(tokenizer.backend.cuts.chunks(text))) > 2 for text in texts) >= 50
    assert [tokenizer.encode(text) for text in texts] == whole
    ids, lengths = tokenizer.encode_batch(texts)
    assert ids.tolist() == [token for text_ids in whole for token in text_ids]
    assert lengths.tolist() == [len(text_ids) for text_ids in whole]
