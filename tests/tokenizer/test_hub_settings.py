"""Special tokens and chat templates from the files beside a tokenizer, as transformers reads them."""

import json
import re
import shutil

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from pause_megatron.errors import UserError
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import ids_before_text, prove_equal, save_tokenizer, to_huggingface
from pause_megatron.tokenizer.make_tokenizer import add_pause
from tests.tokenizer.foreign import write

END = "<|endoftext|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
NAMED = {"default": TEMPLATE, "tool_use": "{{ tools }}" + TEMPLATE}
CHAT = [{"role": "user", "content": "the <pause> and two  spaces"}]


@pytest.fixture
def folder_of(tmp_path, foreign_files):
    """A function that writes a folder with the tokenizer.json of a kind, and other files beside it."""

    def make(files, kind="gpt2", post_processor=None):
        folder = tmp_path / "foreign"
        folder.mkdir()
        content = json.loads(foreign_files[kind].read_text())
        if post_processor is not None:
            content["post_processor"] = post_processor
        write(folder / "tokenizer.json", json.dumps(content).encode())
        for name, value in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write(folder / name, value if isinstance(value, bytes) else json.dumps(value).encode())
        return folder

    return make


def with_pause(folder):
    """The tokenizer in ``folder`` with <pause>, from a copy that needs no file of ``folder``."""
    output = folder.with_name("with pause")
    add_pause(folder, output)
    return PauseTokenizer.load(shutil.move(output, folder.with_name("moved")))


@pytest.mark.parametrize(
    ("files", "stock"),
    [
        ({"tokenizer_config.json": {"eos_token": END}}, END),
        ({"tokenizer_config.json": {"eos_token": {"__type": "AddedToken", "content": END}}}, END),
        ({"tokenizer_config.json": {"model_max_length": 9}, "special_tokens_map.json": {"eos_token": END}}, END),
        ({"tokenizer_config.json": {"eos_token": "the"}, "special_tokens_map.json": {"eos_token": END}}, END),
        ({"tokenizer_config.json": {}, "config.json": {"model_type": "gpt2", "eos_token_id": 0}}, END),
        ({"tokenizer_config.json": {}, "config.json": {"model_type": "llama", "eos_token_id": [0, 7]}}, None),
        ({"tokenizer_config.json": {}, "generation_config.json": {"eos_token_id": [0, 7]}}, None),
    ],
)
def test_end_of_document_comes_from_any_file_and_stays(folder_of, files, stock):
    folder = folder_of(files)
    if stock:
        assert AutoTokenizer.from_pretrained(folder).eos_token == stock
    assert with_pause(folder).eod_id == 0


def test_the_hint_without_an_end_of_document_is_a_token_of_this_tokenizer(folder_of):
    folder = folder_of({}, kind="qwen2")
    with pytest.raises(UserError, match=re.escape(f"no end-of-document token; set one in {folder}")) as error:
        add_pause(folder, folder.with_name("out"))
    hint = json.loads(str(error.value).partition("for example ")[2])
    assert hint["eos_token"] in (END, "<|im_end|>")


BEGIN = "<|im_end|>"
TEMPLATES = {
    "one token": processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 2000)]),
    "behind offsets": processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 2000)]),
        ]
    ),
    "two tokens": processors.TemplateProcessing(single=f"{BEGIN} {END} $A", special_tokens=[(BEGIN, 2000), (END, 0)]),
    "also behind the text": processors.TemplateProcessing(single=f"{BEGIN} $A {BEGIN}", special_tokens=[(BEGIN, 2000)]),
    "only behind the text": processors.TemplateProcessing(single=f"$A {BEGIN}", special_tokens=[(BEGIN, 2000)]),
    "roberta": processors.RobertaProcessing((END, 0), (BEGIN, 2000)),
    "offsets": processors.ByteLevel(trim_offsets=False),
}


@pytest.mark.parametrize("add_bos_token", [None, True, False])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_beginning_of_text_is_what_stock_transformers_puts_there(folder_of, kind, add_bos_token, capsys):
    config = {"eos_token": END, "bos_token": BEGIN, "tokenizer_class": "PreTrainedTokenizerFast"}
    if add_bos_token is not None:
        config["add_bos_token"] = add_bos_token
    state = json.loads(TEMPLATES[kind].__getstate__())
    folder = folder_of({"tokenizer_config.json": config}, kind="qwen2", post_processor=state)
    expected = {"two tokens": (2000, 0), "only behind the text": (), "offsets": ()}.get(kind, (2000,))
    assert ids_before_text(AutoTokenizer.from_pretrained(folder)) == expected
    tokenizer = with_pause(folder)
    assert tokenizer.bos_ids == expected
    assert tokenizer.document_start == (() if kind == "two tokens" else expected)  # the second one ends documents
    assert ("add_bos_token has no effect" in capsys.readouterr().err) == (add_bos_token is True and not expected)
    exported = to_huggingface(tokenizer)
    assert exported.encode("a", "b")[: len(expected)] == list(expected)
    assert exported.encode("text") == [*expected, *tokenizer.encode("text")]
    assert exported.bos_token == BEGIN
    prove_equal(tokenizer, exported, [])


def test_a_sentencepiece_model_begins_texts_if_the_config_beside_it_says_so(tmp_path, foreign_files):
    folder = tmp_path / "llama"
    folder.mkdir()
    shutil.copy(foreign_files["sentencepiece-llama"], folder / "tokenizer.model")
    for config, expected in ({}, ()), ({"add_bos_token": False}, ()), ({"add_bos_token": True}, (1,)):
        write(folder / "tokenizer_config.json", json.dumps(config).encode())
        add_pause(folder, tmp_path / f"out-{config}")
        tokenizer = PauseTokenizer.load(tmp_path / f"out-{config}")
        assert tokenizer.bos_ids == expected
        exported = to_huggingface(tokenizer)
        assert exported.encode("text") == [*expected, *tokenizer.encode("text")]
        assert exported.bos_token == "<s>"
        prove_equal(tokenizer, exported, [])


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "named", "named files"])
def test_chat_templates_stay(folder_of, place, tmp_path):
    config = {"eos_token": "<|im_end|>", "bos_token": END, "model_max_length": 77}
    named = [{"name": name, "template": text} for name, text in NAMED.items()]
    files = {
        "tokenizer_config.json": {"tokenizer_config.json": {**config, "chat_template": TEMPLATE}},
        "chat_template.jinja": {
            "tokenizer_config.json": {**config, "chat_template": "old"},
            "chat_template.jinja": TEMPLATE.encode(),
        },
        "named": {"tokenizer_config.json": {**config, "chat_template": named}},
        "named files": {
            "tokenizer_config.json": config,
            "chat_template.jinja": NAMED["default"].encode(),
            "additional_chat_templates/tool_use.jinja": NAMED["tool_use"].encode(),
        },
    }[place]
    folder = folder_of(files, kind="qwen2")
    original = AutoTokenizer.from_pretrained(folder)
    tokenizer = with_pause(folder)
    save_tokenizer(to_huggingface(tokenizer), tmp_path / "export")
    exported = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert exported.chat_template == original.chat_template == (NAMED if "named" in place else TEMPLATE)
    assert exported.model_max_length == 77
    for settings in ({}, {"add_generation_prompt": True}):
        ids = exported.apply_chat_template(CHAT, **settings)["input_ids"]
        assert ids == original.apply_chat_template(CHAT, **settings)["input_ids"]
        assert ids[0] == 0
        assert 2000 in ids
        assert tokenizer.pause_id not in ids
    assert prove_equal(tokenizer, exported, ["a <pause> b"]) > 10
    assert exported.convert_tokens_to_ids("<pause>") == tokenizer.pause_id


DAMAGE = {
    "no object": ("tokenizer_config.json", b"[]"),
    "no JSON": ("special_tokens_map.json", b'{"eos_token"'),
    "deep JSON": ("special_tokens_map.json", b"[" * 100_000),
    "not UTF-8": ("tokenizer_config.json", b'{"eos_token": "\xff"}'),
    "number as a token": ("tokenizer_config.json", b'{"eos_token": 3}'),
    "list as a token": ("special_tokens_map.json", b'{"bos_token": ["a"], "eos_token": "<|endoftext|>"}'),
    "length": ("tokenizer_config.json", b'{"eos_token": "<|endoftext|>", "model_max_length": "512"}'),
    "text as a switch": ("tokenizer_config.json", b'{"eos_token": "<|endoftext|>", "add_bos_token": "yes"}'),
    "number as a template": ("tokenizer_config.json", b'{"eos_token": "<|endoftext|>", "chat_template": 3}'),
    "templates without names": ("tokenizer_config.json", b'{"chat_template": [{"template": ""}]}'),
    "name of another folder": ("tokenizer_config.json", b'{"chat_template": [{"name": "../x", "template": ""}]}'),
    "template": ("chat_template.jinja", b"\xff\xfe"),
    "model": ("config.json", b"{"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_reported_by_name(folder_of, kind):
    name, content = DAMAGE[kind]
    folder = folder_of({name: content})
    with pytest.raises(UserError, match=re.escape(str(folder / name))):
        add_pause(folder, folder.with_name("out"))


@pytest.mark.parametrize(
    "post_processor",
    [
        {"type": "TemplateProcessing"},
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
        {"type": "Unknown"},
        "text",
        json.loads(processors.RobertaProcessing(("x", 0), ("y", 99_999)).__getstate__()),
    ],
)
def test_a_damaged_post_processor_is_reported(folder_of, post_processor):
    folder = folder_of({"tokenizer_config.json": {"eos_token": END}}, post_processor=post_processor)
    with pytest.raises(UserError, match=re.escape(str(folder / "tokenizer.json"))):
        add_pause(folder, folder.with_name("out"))
