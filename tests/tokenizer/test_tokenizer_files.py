"""Files of tokenizers: complete copies, and what exports have for other programs."""

import json
import shutil

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer

from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.baking import bake_pauses
from pause_megatron.tokenizer.huggingface import save_tokenizer, to_huggingface
from pause_megatron.tokenizer.make_tokenizer import add_pause
from pause_megatron.tokenizer.sentencepiece_backend import SentencePieceBackend
from pause_megatron.tokenizer.sentencepiece_conversion import convert_sentencepiece
from pause_megatron.tokenizer.tokenizer_files import copy_tokenizer, write_sentencepiece_model
from tests.tokenizer.foreign import KINDS, write


@pytest.fixture(scope="module")
def published_llama(tmp_path_factory, foreign_files):
    """A folder like Llama 2's: both kinds of tokenizer, and more special tokens in one of them."""
    folder = tmp_path_factory.mktemp("published")
    model = shutil.copy(foreign_files["sentencepiece-llama"], folder / "tokenizer.model")
    converted = convert_sentencepiece(SentencePieceBackend(model, model.read_bytes()))
    converted.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>", "<pad>")])
    converted.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    converted.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "</s>", "bos_token": "<s>", "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}
    write(folder / "tokenizer_config.json", json.dumps(config).encode())
    return folder


@pytest.mark.parametrize("kind", [*KINDS, "trained"])
@pytest.mark.parametrize("num_pauses", [0, 2])
def test_exports_have_only_settings_that_both_versions_of_transformers_read(tokenizers, kind, num_pauses, tmp_path):
    exported = bake_pauses(to_huggingface(tokenizers[kind], max_length=99), num_pauses)
    save_tokenizer(exported, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert ("<pause>" in config["additional_special_tokens"]) == (num_pauses == 0)
    assert not isinstance(config.get("extra_special_tokens"), list)
    assert config["model_max_length"] == (99 if "sentencepiece" in kind or kind == "trained" else 512)
    adds = None if num_pauses else bool(tokenizers[kind].bos_ids)
    assert config.get("add_bos_token") is adds
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.all_special_ids == exported.all_special_ids
    for text in ("a <pause> b", "", "</s>"):
        assert loaded.encode(text) == exported.encode(text)


@pytest.mark.parametrize("adds", [True, False])
def test_exports_say_whether_a_space_is_put_before_texts(tokenizers, tmp_path, adds):
    """transformers 4.57 changes the pre-tokenizer if this setting is missing or another one."""
    folder = shutil.copytree(tokenizers["gpt2"].path.parent, tmp_path / "spaced")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"]["add_prefix_space"] = adds
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "manifest.json").unlink()
    save_tokenizer(to_huggingface(PauseTokenizer.load(folder)), tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["add_prefix_space"] is adds


def test_the_sentencepiece_model_of_an_export_has_every_id(published_llama, tmp_path, pydoc_texts, capsys):
    add_pause(published_llama, tmp_path / "tokenizer")
    tokenizer = PauseTokenizer.load(tmp_path / "tokenizer")
    assert tokenizer.encoder_name == "tokenizers"
    (tmp_path / "export").mkdir()
    write_sentencepiece_model(tokenizer, tmp_path / "export")
    model = SentencePieceProcessor(model_file=str(tmp_path / "export" / "tokenizer.model"))
    assert model.vocab_size() == tokenizer.vocab_size
    assert model.piece_to_id("<pause>") == tokenizer.pause_id
    assert model.is_control(tokenizer.pause_id)
    assert (model.piece_to_id("<pad>"), model.eos_id(), model.bos_id()) == (2000, tokenizer.eod_id, 1)
    for text in (*pydoc_texts[:3], "a <pause> b</s>"):
        assert model.encode(text) == tokenizer.encode(text)
    assert "leaving it out" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name"), [("sentencepiece-llama", "tokenizer.model"), ("sentencepiece-t5", "spiece.model")]
)
def test_a_unigram_model_has_a_name_that_is_not_taken_for_bpe(tokenizers, kind, name, tmp_path):
    write_sentencepiece_model(tokenizers[kind], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == tokenizers[kind].path.read_bytes()


def other_pieces(folder):
    shutil.copy(folder.parent / "other.model", folder / "tokenizer.model")
    write(folder / "tokenizer_config.json", b'{"eos_token": "</s>"}')


def other_ids(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def damaged(folder):
    (folder / "tokenizer.model").write_bytes(b"\x0a")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(other_pieces, "has another id in"), (other_ids, "encodes texts differently"), (damaged, "not a SentencePiece")],
)
def test_a_sentencepiece_model_of_another_tokenizer_is_left_out(
    published_llama, foreign_files, tmp_path, change, complaint, capsys
):
    folder = shutil.copytree(published_llama, tmp_path / "published")
    shutil.copy(foreign_files["sentencepiece-t5"], tmp_path / "other.model")
    change(folder)
    add_pause(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("kind", [*KINDS, "trained"])
def test_copies_are_complete(tokenizers, kind, tmp_path):
    original = tokenizers[kind]
    copy_tokenizer(original, tmp_path)
    copied = PauseTokenizer.load(tmp_path)
    for name in ("sha256", "vocab_size", "pause_id", "eod_id", "bos_ids", "encoder_name"):
        assert getattr(copied, name) == getattr(original, name)
    assert copied.backend.hub.config() == original.backend.hub.config()


def test_a_copy_has_what_came_from_other_files(tmp_path, tokenizers):
    folder = shutil.copytree(tokenizers["gpt2"].path.parent, tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    write(folder / "config.json", b'{"eos_token_id": [0]}')
    write(folder / "chat_template.jinja", "{{ 'é' }}".encode())
    (tmp_path / "copy").mkdir()
    copy_tokenizer(PauseTokenizer.load(folder), tmp_path / "copy")
    copied = PauseTokenizer.load(tmp_path / "copy")
    assert copied.eod_id == 0
    assert copied.backend.hub.chat_template == "{{ 'é' }}"
