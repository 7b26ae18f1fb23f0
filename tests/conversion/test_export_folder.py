"""Content of an exported folder: weights of the given dtype in files of the given size, a report, a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

from pause_megatron.config.conversion import ConvertFromHfConfig, ConvertToHfConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.conversion import to_hf
from pause_megatron.conversion.from_hf import convert_from_hf
from pause_megatron.conversion.hf_config import add_transformers_4_names
from pause_megatron.conversion.layouts import GateAndUp, SplitQkv
from pause_megatron.conversion.safetensors_writer import divide
from pause_megatron.conversion.to_hf import convert_to_hf
from pause_megatron.downstream.generation import generate_texts
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.errors import UserError
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_record
from tests.distributed import run_distributed

GIGABYTE = 1e9
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module")
def checkpoint(foreign: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "run"
    run_distributed(convert_from_hf, 1, ConvertFromHfConfig(model=foreign("llama"), output=folder))
    return folder


def exported(checkpoint: Path, output: Path, **settings: Any) -> ExportRecord:
    """Export in a child process; returns the report."""
    run_distributed(convert_to_hf, 1, ConvertToHfConfig(checkpoint=checkpoint, output=output, **settings))
    return read_record(output / "conversion_report.json", ExportRecord)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_have_the_given_dtype_and_are_compared_in_it(checkpoint: Path, dtype: str, tmp_path: Path) -> None:
    report = exported(checkpoint, tmp_path / "hf", dtype=dtype)
    assert report.dtype == dtype
    assert report.verdict.passed
    assert report.verdict.max_abs_logit_difference <= 1e-4
    assert "torch" in report.versions
    assert report.files is not None
    unchecked = {path.name for path in (tmp_path / "hf").iterdir()} - report.files.keys()
    assert unchecked == {"README.md", "conversion_report.json"}
    assert report.source["layout"] == "from Hugging Face"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert model.dtype == DTYPES[dtype]


def export_with_a_longer_context(checkpoint: Path, output: Path) -> str:
    """Error of an export whose ``config.json`` has another context; no logit shows it."""
    written = to_hf.hf_model_config

    def longer(*arguments: Any, **named: Any) -> Any:
        config = written(*arguments, **named)
        config.max_position_embeddings += 1
        return config

    pytest.MonkeyPatch().setattr(to_hf, "hf_model_config", longer)  # in a process of its own
    try:
        convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=output))
    except UserError as error:
        return str(error)
    return ""


def test_settings_that_logits_do_not_show_are_compared(checkpoint: Path, tmp_path: Path) -> None:
    [error] = run_distributed(export_with_a_longer_context, 1, checkpoint, tmp_path / "hf")
    assert "config.json: max_position_embeddings 65, but 64 in the checkpoint" in error
    assert list(tmp_path.iterdir()) == []


def test_split_files_load_as_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    largest = 100_000
    exported(checkpoint, tmp_path / "one")
    exported(checkpoint, tmp_path / "many", max_shard_gb=largest / GIGABYTE)
    files = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(files) > 2
    assert [path.name[-20:] for path in files] == [f"-of-{len(files):05d}.safetensors"[-20:]] * len(files)
    sizes = {path.name: _sizes(path) for path in files}
    assert all(sum(of_file.values()) <= largest or len(of_file) == 1 for of_file in sizes.values())
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"] == {name: file for file, of_file in sizes.items() for name in of_file}
    assert index["metadata"]["total_size"] == sum(sum(of_file.values()) for of_file in sizes.values())
    one, many = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "many"))
    assert set(one) == set(many)
    assert all(torch.equal(tensor, many[name]) for name, tensor in one.items())


def _sizes(path: Path) -> dict[str, int]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118 - safe_open is not a mapping


def test_a_tensor_larger_than_a_file_gets_its_own_file() -> None:
    files = divide({"a": (10,), "b": (100,), "c": (10,), "d": (10,)}, bytes_per_element=4, max_bytes=100, stem="model")
    assert [list(shapes) for shapes in files.values()] == [["a"], ["b"], ["c", "d"]]


def test_tokenizer_knows_pause_and_generation_never_emits_it(checkpoint: Path, tmp_path: Path) -> None:
    report = exported(checkpoint, tmp_path / "hf")
    pause_id = report.tokenizer.pause_id
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").convert_tokens_to_ids("<pause>") == pause_id
    assert GenerationConfig.from_pretrained(tmp_path / "hf").suppress_tokens == [pause_id]
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert f"`<pause>` is token {pause_id} of {report.tokenizer.vocab_size}" in card
    assert f"{report.verdict.max_abs_logit_difference:.1e}" in card


def test_settings_have_the_names_of_older_programs_too(checkpoint: Path, tmp_path: Path) -> None:
    exported(checkpoint, tmp_path / "hf", dtype="bf16")
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500_000
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    again.save_pretrained(tmp_path / "again")
    add_transformers_4_names(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8")) == config


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"dtype": "float32", "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, {"rope_theta": 1e4}),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}, {}),
        ({"model_type": "gpt2"}, {}),
    ],
    ids=["default", "scaled", "partial", "several", "none"],
)
def test_older_names_of_rotary_embeddings(written: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(written))
    add_transformers_4_names(tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())
    dtype = {"torch_dtype": written["dtype"]} if "dtype" in written else {}
    assert found == written | dtype | expected


def test_stop_tokens_and_start_of_an_imported_model_are_kept(foreign: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(foreign("llama"), tmp_path / "model")
    outside = len(AutoTokenizer.from_pretrained(folder))
    stops = {"bos_token_id": 5, "eos_token_id": [7, 0, outside]}  # 0 is the end of document, 5 and 7 are text
    (folder / "generation_config.json").write_text(json.dumps(stops))
    run_distributed(convert_from_hf, 1, ConvertFromHfConfig(model=folder, output=tmp_path / "checkpoint"))
    exported(tmp_path / "checkpoint", tmp_path / "hf")
    found = GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (found.eos_token_id, found.bos_token_id) == ([0, 7], 0)
    assert AutoConfig.from_pretrained(tmp_path / "hf").eos_token_id == [0, 7]


def test_baked_pauses_end_every_prompt(checkpoint: Path, tmp_path: Path) -> None:
    report = exported(checkpoint, tmp_path / "hf", bake_pauses=3)
    exported(checkpoint, tmp_path / "plain")
    baked, plain = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("hf", "plain"))
    assert baked.encode("a word") == plain.encode("a word") + [report.tokenizer.pause_id] * 3
    assert report.tokenizer.baked_pauses == 3
    assert "appends 3 of them to every prompt" in (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    pipelines = [pipeline("text-generation", model=str(tmp_path / name)) for name in ("hf", "plain")]
    settings = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    [with_pauses], [without] = (each("a word", **settings) for each in pipelines)
    folder = load_model_folder(tmp_path / "plain")
    for found, num_pauses in ((with_pauses, 3), (without, 0)):
        [expected] = generate_texts(
            folder, ["a word"], pausing=InferencePausing(num_pauses_inf=num_pauses), max_new_tokens=8
        )
        assert found["generated_text"] == expected
    assert with_pauses != without


def swap_two_heads(self: SplitQkv, tensor: torch.Tensor, model: Any, vocab_size: int) -> list[torch.Tensor]:
    queries, keys, values = _SPLIT(self, tensor, model, vocab_size)
    heads = queries.reshape(model.num_attention_heads, model.head_dim, -1)
    return [heads[[1, 0, *range(2, len(heads))]].reshape(queries.shape), keys, values]


def swap_gate_and_up(self: GateAndUp, tensor: torch.Tensor, model: Any, vocab_size: int) -> list[torch.Tensor]:
    return list(tensor.chunk(2))[::-1]


_SPLIT = SplitQkv.to_hf
WRONG = {"heads": (SplitQkv, swap_two_heads), "gate and up": (GateAndUp, swap_gate_and_up)}


def export_wrongly(checkpoint: Path, output: Path, what: str) -> None:
    """Export with one wrong layout, in a child process."""
    layout, wrong = WRONG[what]
    layout.to_hf = wrong  # type: ignore[method-assign]
    convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=output))


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_layout_is_refused_and_leaves_no_folder(checkpoint: Path, what: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="logits of the two models differ by up to"):
        run_distributed(export_wrongly, 1, checkpoint, tmp_path / "hf", what)
    assert list(tmp_path.iterdir()) == []
