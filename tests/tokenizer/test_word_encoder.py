from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer, chunking, word_encoder, word_table
from pause_megatron.tokenizer.charsmap import read_replacements
from pause_megatron.tokenizer.encoders import choose_encoder
from pause_megatron.tokenizer.model_file import read_settings, round_scores
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from pause_megatron.tokenizer.word_encoder import WordEncoder

pytest.importorskip("numba", reason="numba is not installed; the word table was not checked")

UNCHANGED = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
MODELS = {
    "default": {},  # nmt_nfkc, like T5's
    "nfkc": {"normalization_rule_name": "nfkc"},
    "casefolding": {"normalization_rule_name": "nmt_nfkc_cf"},
    "folding": {"normalization_rule_name": "identity"},
    "bytes": {"byte_fallback": True},
    "few characters": {"character_coverage": 0.98, "vocab_size": 500},
    "unchanged": UNCHANGED,
    "unchanged, bytes": {**UNCHANGED, "byte_fallback": True},
    "newlines": {**UNCHANGED, "byte_fallback": True, "required_chars": "\n", "split_digits": True},
    "spaces": {**UNCHANGED, "allow_whitespace_only_pieces": True},
    "joined scripts": {"split_by_unicode_script": False, "split_by_number": False},
}
FRAGMENTS = [
    *("<pause>", "</s>", "<s>", "<unk>", "<0x0A>", "▁", "▁▁", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\v", "\f"),
    *("\0", "\x07", "\x85", "\u00a0", "\u3000", "\u2028", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u0301", "\u0338"),
    *(
        "e\u0301",
        " \u0301",
        "<\u0338",
        "a\u20d7",
        "ﬁ",
        "½",
        "…",
        "™",
        "℃",
        "¨",
        "ﷺ",
        "“",
        "\u2019s",
        "—",
        "é",
        "É",
        "ß",
    ),
    *(
        "١٢",
        "一",
        "あ",
        "한",
        "\U0001f469",
        "\U0010ffff",
        "\ud7ff",
        "~",
        "_",
        "--",
        "...",
        "(",
        "1",
        "22",
        "word",
        "Word",
    ),
    *("the", " the", ",", ". ", '"', "x" * 15, "y" * 16, "z" * 17, "w" * 40, "ж" * 12),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory, sentencepiece_model, pydoc_texts):
    """The tokenizer of each kind in MODELS."""
    found = {}
    for name, settings_ in MODELS.items():
        model = sentencepiece_model(pydoc_texts, control_symbols=["<pause>"], **settings_)
        path = tmp_path_factory.mktemp("model") / "tokenizer.model"
        path.write_bytes(round_scores(model))
        found[name] = PauseTokenizer.load(path)
    return found


@pytest.fixture(scope="module")
def encoders(models, tokenizers):
    """The word encoder and the tokenizer of each kind."""
    all_models = {**models, "trained": tokenizers["trained"], "sentencepiece-t5": tokenizers["sentencepiece-t5"]}
    return [(WordEncoder(tokenizer), tokenizer) for tokenizer in all_models.values()]


@pytest.fixture(scope="module")
def few_encoders(encoders):
    """One encoder for each way to normalise and to handle characters without a piece."""
    names = [*MODELS, "trained", "sentencepiece-t5"]
    return [encoders[names.index(name)] for name in ("casefolding", "joined scripts", "trained", "sentencepiece-t5")]


def assert_equal(encoders, texts):
    for fast, reference in encoders:
        (ids, lengths), (expected, expected_lengths) = fast.encode_batch(texts), reference.encode_batch(texts)
        assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)
        assert lengths.tolist() == expected_lengths.tolist(), reference.path
        assert ids.tolist() == expected.tolist(), reference.path


def test_ids_are_equal_on_real_text_and_edge_cases(encoders, pydoc_texts):
    assert_equal(encoders, [*EDGE_CASE_TEXTS, *FRAGMENTS, *pydoc_texts])
    assert_equal(encoders, [])
    assert_equal(encoders, [""])
    assert_equal(encoders, ["", " ", "", "a", ""])


def test_ids_are_equal_on_every_document_of_c4(few_encoders, c4_texts):
    assert_equal(few_encoders, c4_texts)


@settings(deadline=None, max_examples=150)
@given(texts=st.lists(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5)).map("".join), max_size=8))
def test_ids_are_equal_on_any_text(encoders, texts):
    assert_equal(encoders, texts)


def test_ids_are_equal_next_to_every_character(few_encoders):
    """Each character of the first plane, next to letters, spaces and punctuation."""
    characters = [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000]
    lines = ["".join(f"a{c}b {c} .{c}, {c}x" for c in characters[at : at + 64]) for at in range(0, len(characters), 64)]
    assert_equal(few_encoders, lines)


def test_ids_are_equal_on_long_documents(encoders, pydoc_texts, monkeypatch):
    long = "\n".join(pydoc_texts)
    assert_equal(encoders, [long, "short", long[::-1]])
    monkeypatch.setattr(chunking, "CHUNK_CHARACTERS", 100)
    assert_equal(encoders, [long[:20_000], "short"])


def test_text_with_inexact_sums_goes_to_sentencepiece(encoders):
    """Sums of unknown characters exceed 2**18 nats, from where on float32 rounds them."""
    text = "the 一丁 quick 丂七 brown, 丄丅 fox! " * 1500
    assert_equal(encoders, [text, "the quick", "\U0001f469 " * 12_000])
    for fast, reference in encoders:
        is_left_out = []
        backend = fast._backend

        class Watched:
            def encode_batch(self, texts, backend=backend, is_left_out=is_left_out):
                is_left_out += [text for text in texts if len(text) > 1000]
                return backend.encode_batch(texts)

            def __getattr__(self, name, backend=backend):
                return getattr(backend, name)

        watched = WordEncoder(reference)
        watched._backend = Watched()
        watched.encode_batch([text, "the quick"])
        assert is_left_out == [text]


@pytest.fixture
def small_table(monkeypatch):
    monkeypatch.setattr(word_table, "MAX_WORDS", 1 << 13)
    monkeypatch.setattr(word_table, "MAX_WORD_BYTES", 10 << 13)
    monkeypatch.setattr(word_table, "MAX_IDS", 10 << 13)
    monkeypatch.setattr(word_table, "_WORDS_AT_ONCE", 1000)


def new_words(numbers, number):
    """Words of eight letters, one for each of the next ``numbers``."""
    letters = str.maketrans("0123456789", "abcdefghij")
    return [f"{each:08d}".translate(letters) for each in islice(numbers, number)]


def test_a_full_table_keeps_the_words_that_occur_again(models, small_table):
    fast = WordEncoder(models["unchanged"])
    numbers = count()
    frequent = new_words(numbers, 500)
    counts, encoded = [], []
    for _ in range(40):
        before = fast._table.encoded_words
        assert_equal([(fast, models["unchanged"])], [" ".join(["", *frequent, *new_words(numbers, 900)])])
        counts.append(len(fast._table))
        encoded.append(fast._table.encoded_words - before)
    assert min(counts[8:]) == 1400  # the frequent ones and the last ones
    assert encoded == [1400] + [900] * 39
    assert len(fast._table._ids) == 10 << 13


def test_texts_that_a_full_table_has_no_room_for_go_to_sentencepiece(models, small_table):
    fast = WordEncoder(models["unchanged"])
    words = new_words(count(), 20_000)
    texts = ["short", *(" ".join(["", *words[at : at + 500]]) for at in range(0, 20_000, 500)), "", "short"]
    for _ in range(3):
        assert_equal([(fast, models["unchanged"])], texts)
        assert 7 << 10 < len(fast._table) <= 1 << 13


def test_ids_of_words_may_take_more_than_their_mean(models, monkeypatch):
    monkeypatch.setattr(word_table, "MAX_IDS", 100)
    fast = WordEncoder(models["unchanged"])
    for _ in range(2):
        assert_equal([(fast, models["unchanged"])], ["one two three four five six seven " * 3 + "x" * 90, "ж" * 80])


def test_text_of_new_words_goes_to_sentencepiece_for_some_time(models, pydoc_texts, monkeypatch):
    monkeypatch.setattr(word_encoder, "FEWEST_WORDS", 1000)
    fast = WordEncoder(models["unchanged"])
    new = " ".join(map("".join, np.random.default_rng(1).choice(list("abcdefghij"), (2000, 12))))
    texts, counts = [pydoc_texts[0], new, *[pydoc_texts[1]] * 3, "the " * len(new) * 4, pydoc_texts[1]], []
    for text in texts:
        assert_equal([(fast, models["unchanged"])], [text])
        counts.append(fast._table.encoded_words)
    assert counts[1] == counts[0] + 2000
    assert counts[1] == counts[2] == counts[4] == counts[5] < counts[6]


def test_words_with_equal_hashes_are_told_apart(models):
    fast = WordEncoder(models["unchanged"])
    fast._table._factor = np.uint64(0)  # all words want the first slot
    assert_equal([(fast, models["unchanged"])], ["one two three four five", "five four three one two six", "a" * 30])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_defined_symbols": ["<x>"]}, "user-defined"),
        ({"split_by_whitespace": False}, "cross words"),
        ({"treat_whitespace_as_suffix": True}, "cross words"),
        ({"add_dummy_prefix": False}, "but not both"),
        ({"add_dummy_prefix": False, "remove_extra_whitespaces": False}, "keeps spaces"),
        ({"normalization_rule_tsv": "rules.tsv"}, "normalisation can cross"),
        ({"model_type": "bpe"}, "not a unigram model"),
    ],
)
def test_other_models_are_refused(tmp_path, monkeypatch, sentencepiece_model, pydoc_texts, change, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.tsv").write_text("61 20 62\t63\n")  # "a b" becomes "c"
    model = round_scores(sentencepiece_model(pydoc_texts, control_symbols=["<pause>"], **change))
    (tmp_path / "tokenizer.model").write_bytes(model)
    tokenizer = PauseTokenizer.load(tmp_path)
    with pytest.raises(UserError, match=f"encoder word-table: .*{reason}"):
        choose_encoder(tokenizer, "word-table", ["text"])
    if not tokenizer.backend.is_bpe:
        assert choose_encoder(tokenizer, "auto", ["text"]) == "sentencepiece"


def test_unrounded_scores_are_refused(tmp_path, sentencepiece_model, pydoc_texts):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pydoc_texts, control_symbols=["<pause>"]))
    with pytest.raises(UserError, match="scores are not rounded"):
        WordEncoder(PauseTokenizer.load(tmp_path))


def test_a_tokenizer_json_is_refused(tokenizers):
    with pytest.raises(UserError, match="not a SentencePiece model"):
        WordEncoder(tokenizers["t5"])


def test_unequal_ids_are_noticed_at_the_start(models, monkeypatch, capsys):
    """Words are cut between letters, as if no piece had two letters."""
    real = word_encoder.WordBoundaries

    class Wrong(real):
        def __init__(self, backend, *, changes_ascii):
            super().__init__(backend, changes_ascii=changes_ascii)
            self.places.is_place[4 << 3 | 4] = True

    monkeypatch.setattr(word_encoder, "WordBoundaries", Wrong)
    with pytest.raises(UserError, match="encoder word-table: encodes an edge case differently from sentencepiece"):
        choose_encoder(models["unchanged"], "word-table", ["text"])
    assert choose_encoder(models["unchanged"], "auto", ["text"]) == "sentencepiece"
    assert capsys.readouterr().err.endswith("; using sentencepiece\n")


def test_replacements_of_every_rule_set(tmp_path, monkeypatch, models, sentencepiece_model, pydoc_texts):
    def replacements(tokenizer):
        return read_replacements(tokenizer.backend.settings.precompiled_charsmap)

    for name in ("default", "nfkc", "casefolding"):
        found = replacements(models[name])
        assert (found.join_ascii, found.make_space_marks, found.longest) == (False, False, 18)  # U+FDFA has 18
        assert found.change_ascii == (name == "casefolding")
    monkeypatch.chdir(tmp_path)
    for rule, joins, marks in (("61 20 62\t63", True, False), ("e9 61\t63", True, False), ("e9\t2581", False, True)):
        (tmp_path / "rules.tsv").write_text(f"{rule}\n")
        model = sentencepiece_model(pydoc_texts[:5], normalization_rule_tsv="rules.tsv", vocab_size=300)
        found = read_replacements(read_settings(model).precompiled_charsmap)
        assert (found.join_ascii, found.make_space_marks) == (joins, marks)
    with pytest.raises(ValueError, match="incomplete"):
        read_replacements(read_settings(model).precompiled_charsmap[:20])


def test_loops_are_compiled_where_nothing_can_be_kept_on_disk():
    from pause_megatron.compiled_loops import compiled

    names = {}
    exec("def double(number): return 2 * number", names)  # numba finds no place for code without a file
    assert compiled(names["double"])(21) == 42
