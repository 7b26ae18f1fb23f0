import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pause_megatron.tokenizer import PauseTokenizer, chunking
from pause_megatron.tokenizer.model_file import round_scores

GROWTH = """
import resource, sys
from pause_megatron.tokenizer import PauseTokenizer
tokenizer = PauseTokenizer.load(sys.argv[1])
text = "the quick brown fox jumps over the lazy dog " * 400_000
tokenizer.encode_batch([text[:10_000]])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ids, lengths = tokenizer.encode_batch([text])
assert lengths.tolist() == [len(ids)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(text), len(ids) / len(text))
"""


def test_memory_for_a_long_text_is_little_more_than_its_ids(tokenizer_folder):
    child = [sys.executable, "-c", GROWTH, str(tokenizer_folder)]
    done = subprocess.run(child, capture_output=True, text=True, check=True)
    bytes_per_byte, tokens_per_byte = map(float, done.stdout.split())
    # The ids of all pieces, and those of the whole text put together from them; encoded at once it is 24 bytes.
    assert bytes_per_byte < 2 * 4 * tokens_per_byte + 2


@pytest.mark.parametrize(
    ("settings", "is_cut"),
    [
        ({"normalization_rule_name": "identity"}, True),
        ({"normalization_rule_name": "identity", "split_by_whitespace": False}, False),
        ({"normalization_rule_tsv": "rules.tsv"}, False),
        ({"treat_whitespace_as_suffix": True}, False),
        ({"add_dummy_prefix": False}, False),
        ({"add_dummy_prefix": False, "remove_extra_whitespaces": False}, True),
    ],
)
def test_models_with_tokens_across_spaces_encode_in_one_chunk(
    tmp_path, monkeypatch, sentencepiece_model, pydoc_texts, settings, is_cut
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.tsv").write_text("61 20 62\t63\n")  # "a b" becomes "c"
    model = round_scores(sentencepiece_model(pydoc_texts, control_symbols=["<pause>"], **settings))
    (tmp_path / "tokenizer.model").write_bytes(model)
    tokenizer = PauseTokenizer.load(tmp_path)
    assert (tokenizer.backend.cuts is not None) == is_cut
    whole = [tokenizer.encode(text) for text in pydoc_texts[:10]]
    monkeypatch.setattr(chunking, "CHUNK_CHARACTERS", 10)
    assert [tokenizer.encode(text) for text in pydoc_texts[:10]] == whole


def test_text_without_a_possible_cut_is_one_chunk(tokenizers, monkeypatch):
    monkeypatch.setattr(chunking, "CHUNK_CHARACTERS", 10)
    assert list(tokenizers["trained"].backend.cuts.chunks("a" * 100)) == ["a" * 100]


def test_short_and_long_texts_keep_their_order(tokenizers, monkeypatch):
    texts = ["", "a b c d e f g h i", "x", "y z", "1 2 3 4 5 6 7 8 9", "a b c d e f g h i", ""]
    for tokenizer in tokenizers.values():
        expected = [tokenizer.encode(text) for text in texts]
        with monkeypatch.context() as patch:
            patch.setattr(chunking, "CHUNK_CHARACTERS", 4)
            ids, lengths = tokenizer.encode_batch(texts)
        assert lengths.tolist() == [len(text_ids) for text_ids in expected]
        assert ids.tolist() == [token for text_ids in expected for token in text_ids]


@given(
    texts=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=8),
    new=st.dictionaries(st.integers(0, 7), st.lists(st.integers(10, 19), max_size=4)),
)
def test_ids_of_single_texts_are_replaced(texts, new):
    new = {index: ids for index, ids in sorted(new.items()) if index < len(texts)}
    arrays = [encoded(texts), encoded(list(new.values()))]
    ids, lengths = chunking.replace_ids(*arrays[0], list(new), arrays[1])
    expected = [new.get(index, ids) for index, ids in enumerate(texts)]
    assert ids.tolist() == list(chain.from_iterable(expected))
    assert lengths.tolist() == list(map(len, expected))


def encoded(texts):
    flat = np.array(list(chain.from_iterable(texts)), dtype=np.int32)
    return flat, np.array(list(map(len, texts)), dtype=np.int64)
