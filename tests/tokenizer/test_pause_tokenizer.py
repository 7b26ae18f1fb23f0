import re

import numpy as np
import pytest

from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS


def test_folder_and_model_file_load_alike(tokenizer_folder):
    from_folder, from_file = (PauseTokenizer.load(tokenizer_folder / name) for name in ("", "tokenizer.model"))
    assert from_folder.path == from_file.path == tokenizer_folder / "tokenizer.model"
    assert from_folder.sha256 == from_file.sha256


def test_special_ids_are_as_documented(tokenizer_folder):
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    assert (tokenizer.backend.unk_id, tokenizer.eod_id, tokenizer.pause_id) == (0, 1, 2)
    assert tokenizer.backend.processor.bos_id() == tokenizer.backend.processor.pad_id() == -1
    assert tokenizer.vocab_size == 2048


def test_no_text_is_encoded_to_a_special_token(tokenizer_folder, pydoc_texts):
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    for text in (*EDGE_CASE_TEXTS, *pydoc_texts):
        assert not {0, tokenizer.eod_id, tokenizer.pause_id} & set(tokenizer.encode(text))


def test_text_comes_back_unchanged(tokenizer_folder, pydoc_texts, c4_texts):
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    for text in (*EDGE_CASE_TEXTS, *pydoc_texts, *c4_texts):
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


def test_special_tokens_decode_to_nothing(tokenizer_folder):
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    ids = tokenizer.encode("one two")
    assert tokenizer.decode([tokenizer.pause_id, *ids, tokenizer.pause_id, tokenizer.eod_id]) == "one two"


def test_context_and_continuation_encode_separately_as_joined(tokenizer_folder):
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    context, continuation = "Question: what is a class?\nAnswer:", " A class is an object."
    assert tokenizer.encode(context) + tokenizer.encode(continuation) == tokenizer.encode(context + continuation)


def test_batch_encoding_equals_single_encodings(tokenizer_folder, pydoc_texts):
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    texts = [*EDGE_CASE_TEXTS, *pydoc_texts[:20]]
    ids, lengths = tokenizer.encode_batch(texts)
    assert ids.dtype == np.int32
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [len(tokenizer.encode(text)) for text in texts]
    assert ids.tolist() == [i for text in texts for i in tokenizer.encode(text)]
    assert [array.size for array in tokenizer.encode_batch([])] == [0, 0]


def test_missing_tokenizer_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"No such file.*pause-megatron tokenizer"):
        PauseTokenizer.load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no tokenizer\.json or tokenizer\.model in this folder"):
        PauseTokenizer.load(tmp_path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        PauseTokenizer.load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        PauseTokenizer.load(path)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "no <pause> token; add it with `pause-megatron tokenizer --from-tokenizer"),
        ({"user_defined_symbols": ["<pause>"]}, "<pause> is an ordinary piece"),
        ({"control_symbols": ["<pause>"], "eos_id": -1}, "no end-of-document token"),
    ],
)
def test_model_without_the_special_tokens_is_refused(tmp_path, sentencepiece_model, pydoc_texts, settings, complaint):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(pydoc_texts[:10], **settings))
    with pytest.raises(UserError, match=re.escape(complaint)):
        PauseTokenizer.load(path)
