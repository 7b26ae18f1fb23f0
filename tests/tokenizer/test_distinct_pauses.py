"""Several distinct pauses in every kind of tokenizer, and in its Hugging Face export."""

import json

import pytest
from transformers import AutoTokenizer

from pause_megatron.cli.main import main
from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.errors import EXIT_DONE, UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.baking import bake_pauses
from pause_megatron.tokenizer.huggingface import prove_equal, save_tokenizer, to_huggingface
from pause_megatron.tokenizer.make_tokenizer import add_pause
from pause_megatron.tokenizer.pause_tokenizer import open_backend
from tests.tokenizer.foreign import KINDS, sentencepiece_model

HAD_PAUSE = {kind: f"{kind}-had-pause" for kind in ("sentencepiece-t5", "gpt2", "llama2")}
NAMES = ("<pause1>", "<pause2>", "<pause3>")
TEXT = "a <pause1> b<pause2> <pause> and <pause3><pause12>"


@pytest.fixture(scope="module")
def distinct(tmp_path_factory, foreign_files):
    """A tokenizer of each kind with three distinct pauses, by kind; of some kinds it had ``<pause>`` before."""
    folder = tmp_path_factory.mktemp("distinct")
    for kind in KINDS:
        add_pause(foreign_files[kind], folder / kind, distinct_pauses=3)
    for kind, name in HAD_PAUSE.items():
        add_pause(foreign_files[kind], folder / "one" / kind)
        add_pause(folder / "one" / kind, folder / name, distinct_pauses=3)
    return {kind: PauseTokenizer.load(folder / kind) for kind in (*KINDS, *HAD_PAUSE.values())}


def test_pause_stays_and_is_no_pause_any_more_when_distinct_ones_are_added(distinct, foreign_files):
    for kind, name in HAD_PAUSE.items():
        before, tokenizer = open_backend(foreign_files[kind], foreign_files[kind].read_bytes()), distinct[name]
        assert tokenizer.backend.special_id("<pause>") == before.vocab_size
        assert tokenizer.pause_ids == range(before.vocab_size + 1, before.vocab_size + 4)
        assert before.vocab_size not in tokenizer.encode(TEXT)
        assert tokenizer.encode("the same") == before.encode("the same")


@pytest.mark.parametrize("kind", KINDS)
def test_pauses_get_the_next_ids_and_other_ids_stay(kind, distinct, foreign_files, pydoc_texts):
    before, tokenizer = open_backend(foreign_files[kind], foreign_files[kind].read_bytes()), distinct[kind]
    assert tokenizer.pause_ids == range(before.vocab_size, before.vocab_size + 3)
    assert (tokenizer.pause_id, tokenizer.vocab_size) == (before.vocab_size, before.vocab_size + 3)
    assert (tokenizer.pause_names, tokenizer.distinct_pauses) == (NAMES, 3)
    manifest = json.loads(tokenizer.path.with_name("manifest.json").read_text())
    assert (manifest["pause_id"], manifest["distinct_pauses"]) == (tokenizer.pause_id, 3)
    for text in (*pydoc_texts[:3], TEXT):
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.pause_ids)
        if text != TEXT:
            assert ids == before.encode(text)


@pytest.mark.parametrize("kind", [*KINDS, *HAD_PAUSE.values()])
def test_exported_tokenizer_has_the_same_pauses(kind, distinct, pydoc_texts, tmp_path):
    tokenizer = distinct[kind]
    save_tokenizer(to_huggingface(tokenizer), tmp_path)
    exported = AutoTokenizer.from_pretrained(tmp_path)
    assert prove_equal(tokenizer, exported, [*pydoc_texts[:3], TEXT]) > 10
    assert exported.convert_tokens_to_ids(list(NAMES)) == list(tokenizer.pause_ids)
    ids = [*tokenizer.encode("one"), *tokenizer.pause_ids, *tokenizer.encode(" two")]
    assert "pause" not in exported.decode(ids, skip_special_tokens=True)
    with pytest.raises(UserError, match="--bake-pauses 2: the tokenizer has distinct pauses, which cannot be baked"):
        bake_pauses(exported, 2)


def test_chat_templates_keep_names_of_distinct_pauses_as_text(foreign_files, tmp_path):
    source = tmp_path / "chat"
    source.mkdir()
    for file in foreign_files["qwen2"].parent.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text())
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    add_pause(source, tmp_path / "paused", distinct_pauses=3)
    tokenizer = PauseTokenizer.load(tmp_path / "paused")
    exported = to_huggingface(tokenizer)
    assert not set(exported.encode(TEXT)) & set(tokenizer.pause_ids)
    assert prove_equal(tokenizer, exported, [TEXT]) > 10


def test_command_trains_distinct_pauses(pydoc_jsonl, tmp_path, capsys):
    flags = ["--input", str(pydoc_jsonl), "--vocab-size", "600", "--distinct-pauses", "3", "--output"]
    assert main(["tokenizer", *flags, str(tmp_path / "trained")]) == EXIT_DONE
    tokenizer = PauseTokenizer.load(tmp_path / "trained")
    assert (tokenizer.pause_ids, tokenizer.vocab_size) == (range(2, 5), 600)
    assert tokenizer.decode([2, *tokenizer.encode(TEXT), 3, 4]) == TEXT


def test_tokenizers_with_pauses_are_refused(distinct, tokenizers, tmp_path, pydoc_texts):
    for tokenizer, count, known in (
        (distinct["gpt2"], 3, "3 distinct pauses"),
        (distinct["gpt2-had-pause"], 3, "3 distinct pauses"),
        (tokenizers["gpt2"], 1, "a <pause> token"),
    ):
        with pytest.raises(UserError, match=f"already has {known}; use it as it is"):
            add_pause(tokenizer.path, tmp_path / "again", distinct_pauses=count)
    for names in (["<pause1>"], ["<pause1>", "<other>", "<pause2>"]):
        model = sentencepiece_model("t5", pydoc_texts, control_symbols=names)
        (tmp_path / "tokenizer.model").write_bytes(model)
        with pytest.raises(UserError, match=r"have the ids .*, not two or more in a row; make another"):
            PauseTokenizer.load(tmp_path / "tokenizer.model")
    with pytest.raises(UserError, match="--distinct-pauses 0: must be at least 1"):
        TokenizerConfig(input=("x",), output=tmp_path / "none", distinct_pauses=0)
