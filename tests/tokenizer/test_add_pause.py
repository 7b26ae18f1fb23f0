import json
import re
import shutil

import pytest
from sentencepiece import SentencePieceProcessor

from pause_megatron.cli.main import main
from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.make_tokenizer import add_pause
from pause_megatron.tokenizer.pause_tokenizer import open_backend
from tests.tokenizer.foreign import KINDS, sentencepiece_model, write


@pytest.mark.parametrize("kind", KINDS)
def test_pause_gets_the_next_id_and_other_ids_stay(kind, foreign_files, tokenizers, pydoc_texts):
    before, tokenizer = open_backend(foreign_files[kind], foreign_files[kind].read_bytes()), tokenizers[kind]
    assert tokenizer.pause_id == before.vocab_size
    assert tokenizer.vocab_size == before.vocab_size + 1
    assert tokenizer.eod_id == before.eod_id
    for text in pydoc_texts[:5]:
        assert tokenizer.encode(text) == before.encode(text)


def test_vocabulary_size_counts_added_tokens(tokenizers, foreign_files):
    content = json.loads(foreign_files["qwen2"].read_text())
    assert len(content["added_tokens"]) == 3
    assert tokenizers["qwen2"].vocab_size == len(content["model"]["vocab"]) + 2 + 1  # the third is in the model's


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_describes_the_tokenizer(kind, tokenizers, foreign_files):
    tokenizer = tokenizers[kind]
    manifest = json.loads(tokenizer.path.with_name("manifest.json").read_text())
    assert manifest["sha256"] == tokenizer.sha256
    assert manifest["from_tokenizer"] == str(foreign_files[kind])
    ids = [manifest[name] for name in ("vocab_size", "pause_id", "eod_id")]
    assert ids == [tokenizer.vocab_size, tokenizer.pause_id, tokenizer.eod_id]


def test_tokenizer_config_is_kept(tokenizers, foreign_files):
    for kind in ("gpt2", "t5"):
        kept = json.loads(tokenizers[kind].path.with_name("tokenizer_config.json").read_text())
        assert kept == json.loads(foreign_files[kind].with_name("tokenizer_config.json").read_text())


def test_command_line_adds_pause_to_a_folder(tmp_path, foreign_files, capsys):
    flags = ["tokenizer", "--from-tokenizer", str(foreign_files["gpt2"].parent), "--output", str(tmp_path / "out")]
    assert main(flags) == 0
    assert "with <pause> as token 2000 of 2001" in capsys.readouterr().err
    assert PauseTokenizer.load(tmp_path / "out").pause_id == 2000
    assert main(flags) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "--input, --from-tokenizer: expected exactly one"),
        (["--input", "a.jsonl", "--from-tokenizer", "b"], "--input, --from-tokenizer: expected exactly one"),
        (["--from-tokenizer", "b", "--vocab-size", "1000"], "--vocab-size: applies only to training"),
        (["--from-tokenizer", "b"], "tokenizer b: No such file"),
    ],
)
def test_conflicting_flags_are_refused(tmp_path, capsys, flags, complaint):
    assert main(["tokenizer", "--output", str(tmp_path / "out"), *flags]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def changed(foreign_files, folder, change, kind="gpt2"):
    """A copy of a Hugging Face tokenizer with its tokenizer.json and tokenizer_config.json changed."""
    shutil.copytree(foreign_files[kind].parent, folder)
    tokenizer, config = (
        json.loads((folder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json")
    )
    change(tokenizer, config)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ordinary_pause(tokenizer, _):
    tokenizer["model"]["vocab"]["<pause>"] = 2000


def ordinary_added_pause(tokenizer, _):
    tokenizer["added_tokens"].append(
        {**tokenizer["added_tokens"][0], "id": 2000, "content": "<pause>", "special": False}
    )


def no_eos(_, config):
    del config["eos_token"]


def unknown_eos(_, config):
    config["eos_token"] = "</s>"


def word_piece(tokenizer, _):
    tokenizer["model"] = {"type": "WordPiece", "vocab": {"a": 0}}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (ordinary_pause, "<pause> is an ordinary token, so text"),
        (ordinary_added_pause, "<pause> is an ordinary token, so text"),
        (no_eos, r"tokenizer_config\.json, for example \{\"eos_token\": \"<\|endoftext\|>\"\}"),
        (unknown_eos, "</s>, is not in the vocabulary"),
        (word_piece, "unsupported type WordPiece; give a tokenizer of type BPE or Unigram"),
        (lambda tokenizer, _: tokenizer.pop("model"), "not the tokenizer.json of a Hugging Face fast tokenizer"),
        (lambda tokenizer, _: tokenizer["model"]["vocab"].update(a=None), "not the tokenizer.json of a Hugging Face"),
        (lambda tokenizer, _: tokenizer["model"].pop("merges"), "not the tokenizer.json of a Hugging Face"),
        (lambda tokenizer, _: tokenizer["model"]["merges"].insert(0, 3), "not the tokenizer.json of a Hugging Face"),
        (
            lambda tokenizer, _: tokenizer["model"].update(continuing_subword_prefix="x"),
            "not the tokenizer.json of a Hugging Face",
        ),
        (lambda tokenizer, _: tokenizer["pre_tokenizer"].pop("type"), "not the tokenizer.json of a Hugging Face"),
        (lambda tokenizer, _: tokenizer["added_tokens"][0].pop("lstrip"), "not the tokenizer.json of a Hugging Face"),
    ],
)
def test_unsupported_hugging_face_tokenizers_are_refused(tmp_path, foreign_files, change, complaint):
    folder = changed(foreign_files, tmp_path / "changed", change)
    with pytest.raises(UserError, match=rf"{re.escape(str(folder))}.*{complaint}"):
        add_pause(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_pause_is_refused(tmp_path, tokenizers):
    for tokenizer in tokenizers.values():
        with pytest.raises(UserError, match="already has a <pause> token; use it as it is"):
            add_pause(tokenizer.path, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"user_defined_symbols": ["<pause>"]}, "<pause> is an ordinary piece, so text"),
        ({"user_defined_symbols": ["<tag>"]}, "cannot be converted to Hugging Face: it has user-defined symbols"),
        ({"model_type": "char"}, "it is of type char, not unigram or BPE"),
        ({"eos_id": -1}, "no end-of-document token in this"),
        (
            {"normalization_rule_name": "nmt_nfkc"},
            r"cannot be converted to Hugging Face: 'first line.* would be encoded differently",
        ),
    ],
)
def test_unsupported_sentencepiece_models_are_refused(tmp_path, pydoc_texts, settings, complaint):
    model = sentencepiece_model("sentencepiece-llama", pydoc_texts[:10], vocab_size=500, **settings)
    path = write(tmp_path / "spiece.model", model)
    with pytest.raises(UserError, match=complaint):
        add_pause(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ids_with_gaps_are_refused(tmp_path, tokenizers):
    folder = tmp_path / "gap"
    shutil.copytree(tokenizers["gpt2"].path.parent, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][-1]["id"] += 5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json: has changed since it was written"):
        PauseTokenizer.load(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="<pause> has the id 2005 in the file, but 2000 after loading"):
        PauseTokenizer.load(folder)


def test_a_folder_with_both_kinds_loads_tokenizer_json(tmp_path, tokenizers, tokenizer_folder):
    shutil.copytree(tokenizers["gpt2"].path.parent, tmp_path / "both")
    shutil.copy(tokenizer_folder / "tokenizer.model", tmp_path / "both")
    assert PauseTokenizer.load(tmp_path / "both").encoder_name == "tokenizers"
    assert PauseTokenizer.load(tmp_path / "both" / "tokenizer.model").encoder_name == "sentencepiece"


def test_scores_are_rounded_without_keep_scores(tmp_path, foreign_files, pydoc_texts, capsys):
    file = foreign_files["sentencepiece-t5"]
    original = SentencePieceProcessor(model_file=str(file))
    assert main(["tokenizer", "--from-tokenizer", str(file), "--output", str(tmp_path / "rounded")]) == 0
    assert "rounded scores to multiples of 0.015625" in capsys.readouterr().err
    assert main(["tokenizer", "--from-tokenizer", str(file), "--output", str(tmp_path / "kept"), "--keep-scores"]) == 0
    assert "rounded scores" not in capsys.readouterr().err
    rounded, kept = PauseTokenizer.load(tmp_path / "rounded"), PauseTokenizer.load(tmp_path / "kept")
    assert [kept.encode(text) for text in pydoc_texts] == original.encode(pydoc_texts)
    assert [rounded.encode(text) for text in pydoc_texts] != original.encode(pydoc_texts)
    assert rounded.caveat is None
    assert "scores are not multiples of" in kept.caveat
    # The rounded scores are in the file, not only in memory: SentencePiece itself gives the same ids.
    reloaded = SentencePieceProcessor(model_file=str(rounded.path))
    assert [rounded.encode(text) for text in pydoc_texts] == reloaded.encode(pydoc_texts)


def test_a_model_with_pause_and_unrounded_scores_is_rounded(tmp_path, foreign_files, pydoc_texts):
    add_pause(foreign_files["sentencepiece-t5"], tmp_path / "kept", keep_scores=True)
    add_pause(tmp_path / "kept", tmp_path / "again")
    add_pause(foreign_files["sentencepiece-t5"], tmp_path / "rounded")
    assert (tmp_path / "again/tokenizer.model").read_bytes() == (tmp_path / "rounded/tokenizer.model").read_bytes()
