import json

import pytest

from pause_megatron.cli.main import main
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer
from pause_megatron.tokenizer.model_file import SCORE_STEP, read_settings


def test_manifest_describes_the_model(tokenizer_folder):
    manifest = json.loads((tokenizer_folder / "manifest.json").read_text())
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    assert manifest["sha256"] == tokenizer.sha256
    assert (manifest["vocab_size"], manifest["pause_id"], manifest["eod_id"]) == (2048, 2, 1)
    assert manifest["config"]["vocab_size"] == 2048


def test_same_text_gives_the_same_bytes(tokenizer_folder, pydoc_jsonl, tmp_path):
    train_tokenizer(TokenizerConfig(input=(str(pydoc_jsonl),), output=tmp_path / "again", vocab_size=2048))
    assert (tmp_path / "again/tokenizer.model").read_bytes() == (tokenizer_folder / "tokenizer.model").read_bytes()


def test_text_key_selects_the_document(tokenizer_folder, pydoc_texts, tmp_path):
    lines = [json.dumps({"text": "none of this", "content": text}) + "\n" for text in pydoc_texts]
    (tmp_path / "pydoc.jsonl").write_text("".join(lines), encoding="utf-8")
    inputs = (str(tmp_path / "pydoc.jsonl"),)
    train_tokenizer(TokenizerConfig(input=inputs, text_key="content", output=tmp_path / "made", vocab_size=2048))
    assert (tmp_path / "made/tokenizer.model").read_bytes() == (tokenizer_folder / "tokenizer.model").read_bytes()


def test_scores_are_multiples_of_the_step_and_nothing_is_normalised(tokenizer_folder):
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    scores = [tokenizer.backend.processor.get_score(i) for i in range(tokenizer.vocab_size)]
    assert min(scores) < -5
    assert all((score / SCORE_STEP).is_integer() for score in scores)
    settings = read_settings((tokenizer_folder / "tokenizer.model").read_bytes())
    assert settings.model_type == "unigram"
    assert not any((settings.precompiled_charsmap, settings.add_dummy_prefix, settings.remove_extra_whitespaces))


def test_newline_is_in_no_other_piece(tokenizer_folder):
    processor = PauseTokenizer.load(tokenizer_folder).backend.processor
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    assert [piece for piece in pieces if "\n" in piece] == ["\n"]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_lines_with_tabs_are_trained_on(tmp_path, pydoc_texts):
    write_jsonl(tmp_path / "tabs.jsonl", [text.replace(" ", "\t") for text in pydoc_texts])
    train_tokenizer(
        TokenizerConfig(input=(str(tmp_path / "tabs.jsonl"),), output=tmp_path / "tokenizer", vocab_size=1024)
    )
    assert len(PauseTokenizer.load(tmp_path / "tokenizer").encode("this method returns the object")) < 10


def test_training_text_is_an_equal_share_of_every_file(tmp_path, pydoc_texts):
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", [f"{name}{text}" for text in pydoc_texts * 2])
    config = TokenizerConfig(
        input=(str(tmp_path / "*.jsonl"),), output=tmp_path / "tokenizer", vocab_size=1024, max_training_megabytes=1
    )
    train_tokenizer(config)
    manifest = json.loads((tmp_path / "tokenizer/manifest.json").read_text())
    assert manifest["documents"] < 4 * len(pydoc_texts)
    assert manifest["documents"] % 2 == 0
    assert 1_000_000 <= manifest["characters"] < 1_000_000 + 2 * max(map(len, pydoc_texts))


@pytest.mark.parametrize(
    ("vocab_size", "complaint"),
    [
        (500_000, r"--vocab-size 500000: the text supports at most \d+ tokens"),
        (100, r"--vocab-size 100: too small for the \d+ characters and byte tokens"),
    ],
)
def test_vocabulary_size_unfit_for_the_text_is_a_user_error(tmp_path, pydoc_jsonl, vocab_size, complaint):
    config = TokenizerConfig(input=(str(pydoc_jsonl),), output=tmp_path / "out", vocab_size=vocab_size)
    with pytest.raises(UserError, match=complaint):
        train_tokenizer(config)
    assert list(tmp_path.iterdir()) == []


def test_input_without_text_is_a_user_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="contains no text"):
        train_tokenizer(TokenizerConfig(input=(str(tmp_path / "empty.jsonl"),), output=tmp_path / "out"))


def test_error_names_the_bad_line_of_the_input(tmp_path, pydoc_jsonl):
    bad = tmp_path / "zz.jsonl"
    bad.write_text('{"text": "good"}\n{"text": 1}\n')
    with pytest.raises(UserError, match=r"zz\.jsonl, line 2: Expected `str`, got `int`"):
        train_tokenizer(TokenizerConfig(input=(str(pydoc_jsonl), str(bad)), output=tmp_path / "out", vocab_size=1024))
    assert not (tmp_path / "out").exists()


def test_command_line_trains_quietly_and_refuses_to_overwrite(tmp_path, pydoc_jsonl, pydoc_texts, capfd):
    flags = ["tokenizer", "--input", str(pydoc_jsonl), "--output", str(tmp_path / "t"), "--vocab-size", "1024"]
    assert main(flags) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert f"1024 tokens from {len(pydoc_texts)} documents" in err
    assert main(flags) == 2
    assert "exists already" in capfd.readouterr().err
