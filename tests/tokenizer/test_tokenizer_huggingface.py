import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import prove_equal, to_huggingface
from pause_megatron.tokenizer.model_file import round_scores
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return PauseTokenizer.load(tokenizer_folder)


@pytest.fixture(scope="module", params=["in memory", "reloaded"])
def hf_tokenizer(request, tokenizer, tmp_path_factory):
    hf_tokenizer = to_huggingface(tokenizer)
    if request.param == "in memory":
        return hf_tokenizer
    folder = tmp_path_factory.mktemp("hf")
    hf_tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_both_tokenizers_are_equal_on_pydoc_and_edge_case_texts(tokenizer, hf_tokenizer, pydoc_texts):
    assert prove_equal(tokenizer, hf_tokenizer, pydoc_texts) == len(pydoc_texts) + len(EDGE_CASE_TEXTS)


def test_both_tokenizers_are_equal_on_real_c4(tokenizer, hf_tokenizer, c4_texts):
    assert prove_equal(tokenizer, hf_tokenizer, c4_texts) == len(c4_texts) + len(EDGE_CASE_TEXTS)


def test_special_tokens_have_their_ids(tokenizer, hf_tokenizer):
    assert hf_tokenizer.convert_tokens_to_ids("<pause>") == tokenizer.pause_id
    assert hf_tokenizer.eos_token_id == hf_tokenizer.pad_token_id == tokenizer.eod_id
    assert hf_tokenizer.bos_token_id is None
    assert len(hf_tokenizer) == tokenizer.vocab_size
    assert tokenizer.pause_id in hf_tokenizer.all_special_ids


def test_decoding_drops_pauses_when_special_tokens_are_skipped(tokenizer, hf_tokenizer):
    ids = [*tokenizer.encode("a b"), tokenizer.pause_id, *tokenizer.encode(" c"), tokenizer.eod_id]
    assert hf_tokenizer.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids) == "a b c"
    assert hf_tokenizer.decode(ids) == "a b<pause> c</s>"


def test_model_gets_no_token_type_ids(hf_tokenizer):
    assert set(hf_tokenizer("text")) == {"input_ids", "attention_mask"}


def test_error_shows_the_first_different_text(tokenizer):
    other = to_huggingface(tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("one two", "one 2"), normalizers.Replace(" ", "▁")]
    )
    with pytest.raises(UserError, match=r"encodes 'one two' differently from token [1-9]"):
        prove_equal(tokenizer, other, ["one", "one two"])


def test_model_with_sentencepiece_default_normaliser_converts_too(tmp_path, sentencepiece_model, pydoc_texts):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(
        round_scores(
            sentencepiece_model(pydoc_texts, control_symbols=["<pause>"], byte_fallback=True, required_chars="<>/_")
        )
    )
    tokenizer = PauseTokenizer.load(path)
    assert tokenizer.encode(" two  spaces\n") == tokenizer.encode("two spaces")
    prove_equal(tokenizer, to_huggingface(tokenizer), pydoc_texts)
