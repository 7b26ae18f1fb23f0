import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.errors import UserError
from pause_megatron.records.checksums import checksums
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_record, write_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import to_huggingface
from tests.downstream.random_models import CONTEXT_LENGTH, random_model
from tests.records.examples import example


@pytest.fixture
def saved(folder, tmp_path):
    """A copy of a model's folder that a test may damage."""
    folder.model.save_pretrained(tmp_path)
    folder.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_ids_and_length_are_the_models_own(folder, tokenizer):
    assert (folder.pause_id, folder.eod_id) == (tokenizer.pause_id, tokenizer.eod_id)
    assert folder.context_length == CONTEXT_LENGTH
    assert (folder.pretraining, folder.finetuning) == (None, None)


def test_records_of_finetuning_and_pretraining_are_read(saved):
    exported, finetuned = (replace(example(kind), files=None) for kind in (ExportRecord, FinetuneRecord))
    write_record(saved / "conversion_report.json", exported)
    found = load_model_folder(saved)
    assert (found.pretraining, found.finetuning) == (exported.pretraining, None)
    finetuned = replace(finetuned, pretraining=replace(finetuned.pretraining, pauses="sequence"))
    write_record(saved / "finetune.json", finetuned)
    found = load_model_folder(saved)
    assert (found.pretraining, found.finetuning) == (finetuned.pretraining, finetuned)


def test_bf16_loads_bf16_weights(saved):
    assert load_model_folder(saved, "bf16").model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "finetune.json: not complete JSON"), ("{}", "finetune.json: expected format 'pause_megatron/finetune/1'")],
)
def test_damaged_finetune_record_is_refused(saved, content, message):
    (saved / "finetune.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_model_folder(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, name: tensors.pop(name), r"tensor \S*c_fc.weight is missing; copy or export"),
        (
            lambda tensors, name: tensors.update(stray=torch.zeros(2)),
            "tensor stray is unknown to its architecture; copy",
        ),
        (lambda tensors, name: tensors.update({name: tensors[name][:-1].clone()}), "not a Hugging Face causal"),
        (lambda tensors, name: tensors[name].fill_(torch.nan), r"tensor \S*c_fc.weight has values that are not"),
        (lambda tensors, name: tensors.update({name: tensors[name].to(torch.float8_e4m3fn)}), "has the type F8_E4M3"),
        (lambda tensors, name: tensors.update({name: tensors[name].to(torch.int8)}), "has the type I8"),
    ],
    ids=["missing", "unexpected", "misshapen", "not finite", "fp8", "int8"],
)
def test_bad_tensors_are_refused(tokenizer, tmp_path, change, message):
    random_model("gpt2", tokenizer.vocab_size).save_pretrained(tmp_path)
    to_huggingface(tokenizer).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors, next(name for name in tensors if name.endswith("h.1.mlp.c_fc.weight")))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load_model_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config means that the weights are quantized"),
        ({"n_layer": 10**6, "num_hidden_layers": 10**6}, "1000000 layers, but only"),
    ],
)
def test_settings_of_another_model_are_refused(saved, change, message):
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_model_folder(saved)


def test_an_index_that_leaves_the_folder_is_refused(saved):
    (saved / "model.safetensors").rename(saved.parent / f"{saved.name}.safetensors")
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": f"../{saved.name}.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="which is not in its folder"):
        load_model_folder(saved)


@pytest.fixture(scope="module")
def recorded(tokenizer, tmp_path_factory):
    """A model's folder with a record of its files."""
    folder = tmp_path_factory.mktemp("recorded")
    random_model("gpt2", tokenizer.vocab_size).save_pretrained(folder)
    to_huggingface(tokenizer).save_pretrained(folder)
    write_record(folder / ExportRecord.FILE, replace(example(ExportRecord), files=checksums(folder)))
    return folder


def flip(path):
    """Flip a bit in the last quarter of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


RECORDED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def test_every_file_that_is_loaded_has_a_checksum(recorded):
    assert set(read_record(recorded / ExportRecord.FILE, ExportRecord).files) == set(RECORDED)
    assert load_model_folder(recorded).pretraining == example(ExportRecord).pretraining


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            flip,
            r"{name}: damaged or changed, because its SHA-256 is not the one in conversion_report.json; copy or make",
        ),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "{name}: damaged or changed"),
        (lambda path: path.unlink(), "{name}"),
    ],
    ids=["flipped bit", "zeros", "missing"],
)
def test_damage_of_any_file_is_reported_with_its_name(recorded, tmp_path, name, change, message):
    damaged = shutil.copytree(recorded, tmp_path / "damaged")
    change(damaged / name)
    with pytest.raises(UserError, match=message.format(name=name)) as refused:
        load_model_folder(damaged)
    assert "\n" not in str(refused.value)


def test_file_that_is_not_recorded_and_would_change_the_tokens_is_refused(recorded, tmp_path):
    changed = shutil.copytree(recorded, tmp_path / "changed")
    (changed / "notes.txt").touch()
    load_model_folder(changed)
    (changed / "special_tokens_map.json").write_text('{"eos_token": "the"}')
    assert AutoTokenizer.from_pretrained(changed).eos_token == "the"
    with pytest.raises(UserError, match=r"special_tokens_map\.json: is not among the files in conversion_report\.json"):
        load_model_folder(changed)


def test_adapter_that_transformers_would_load_is_refused(saved):
    (saved / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(UserError, match=r"adapter_config\.json: transformers loads this adapter and the model that it"):
        load_model_folder(saved)


def test_a_record_that_names_files_elsewhere_is_refused(recorded, tmp_path):
    damaged = shutil.copytree(recorded, tmp_path / "damaged")
    write_record(damaged / ExportRecord.FILE, replace(example(ExportRecord), files={"../secret": "0"}))
    with pytest.raises(
        UserError, match=r"conversion_report\.json: lists the file '\.\./secret', which is not in its folder"
    ):
        load_model_folder(damaged)


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_weights_that_are_cut_are_refused(saved, kept):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model.safetensors: damaged \(.*; fetch the file again"):
        load_model_folder(saved)


def test_model_with_too_few_embeddings_for_pause_is_refused(saved):
    random_model("gpt2", 2).save_pretrained(saved)
    with pytest.raises(UserError, match="<pause> has id 2, but the model has only 2 embeddings"):
        load_model_folder(saved)


def test_tokenizer_without_end_of_document_is_refused(saved):
    path = saved / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key != "eos_token"}))
    with pytest.raises(UserError, match="no end-of-document token"):
        load_model_folder(saved)


def test_tokenizer_that_cannot_encode_a_text_is_one_line(saved):
    """A unigram model without its unknown token fails only at a text that has one."""
    file = saved / "tokenizer.json"
    content = json.loads(file.read_text())
    del content["model"]["unk_id"]
    file.write_text(json.dumps(content))
    model, tokenizer = load_model_folder(saved), PauseTokenizer.load(saved)
    for encode in (model.encode, tokenizer.encode):
        assert encode("a class")
        with pytest.raises(UserError, match=rf"^{saved}.*: cannot encode a text \(.*unk_id.*copy the tokenizer again"):
            encode("日本語")
