"""Llama 3, Qwen2 and Qwen3 convert in both directions to the same bits, and train under layouts as on one process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pause_megatron.checkpoint.checkpoint_folders import latest_checkpoint
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.conversion import ConvertFromHfConfig, ConvertToHfConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.conversion.from_hf import convert_from_hf
from pause_megatron.conversion.hf_config import CONFIG_FILE, hf_model_type
from pause_megatron.conversion.to_hf import convert_to_hf, write_model
from tests.conversion.conftest import LLAMA3_ROPE, PADDING_ROWS, foreign_model
from tests.conversion.test_every_layout import assert_imports_exactly
from tests.conversion.test_to_hf import SmallVocabulary, prove
from tests.distributed import run_distributed
from tests.training.layout_table import TOLERANCE
from tests.training.runs import LLAMA3, QWEN2, QWEN3, VOCAB_SIZE, Run, largest_differences, train_all

FOREIGN = ("llama3", "llama3, tied", "qwen2", "qwen2, tied", "qwen3", "qwen3, tied")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def convert_all(folder: Path, sources: dict[str, Path]) -> None:
    """Convert each model to a checkpoint and back; in a child process."""
    for name, source in sources.items():
        dtype = name.partition(" in ")[2]
        checkpoint = folder / name / "checkpoint"
        convert_from_hf(ConvertFromHfConfig(model=source, output=checkpoint))
        convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=folder / name / "hf", dtype=dtype))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def converted(foreign: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Name of each model and its dtype, to the folder before and after the conversions."""
    sources = {f"{name} in {dtype}": foreign(name, DTYPES[dtype]) for name in FOREIGN for dtype in DTYPES}
    folder = tmp_path_factory.mktemp("converted")
    run_distributed(convert_all, 1, folder, sources)
    return {name: (source, folder / name / "hf") for name, source in sources.items()}


@pytest.mark.parametrize("name", [f"{name} in {dtype}" for name in FOREIGN for dtype in DTYPES])
def test_weights_return_to_the_same_bits(converted: dict[str, tuple[Path, Path]], name: str) -> None:
    source, exported = converted[name]
    before, after = load_file(source / "model.safetensors"), load_file(exported / "model.safetensors")
    num_known = len(AutoTokenizer.from_pretrained(source))
    assert set(after) == set(before)
    for key, tensor in before.items():
        found = after[key]
        assert found.dtype == tensor.dtype == DTYPES[name.partition(" in ")[2]]
        rows = num_known if tensor.shape[0] == num_known + PADDING_ROWS else len(tensor)
        assert torch.equal(tensor[:rows], found[:rows]), key
        assert len(found) == (rows + 1 if rows == num_known else rows), key


@pytest.mark.parametrize("name", FOREIGN)
def test_the_settings_of_the_model_return(converted: dict[str, tuple[Path, Path]], name: str) -> None:
    before, after = (
        json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")) for folder in converted[f"{name} in fp32"]
    )
    changed = {"vocab_size", "transformers_version", "torch_dtype", "pad_token_id", "bos_token_id", "eos_token_id"}
    older = {"rope_theta", "rope_scaling"}
    assert {key: value for key, value in after.items() if key not in changed | older} == {
        key: value for key, value in before.items() if key not in changed
    }
    assert after["model_type"] == ("llama" if name.startswith("llama") else name[:5])
    stop_ids = after["eos_token_id"] if isinstance(after["eos_token_id"], list) else [after["eos_token_id"]]
    assert before["eos_token_id"] in stop_ids
    assert after["rope_theta"] == 500_000
    assert after.get("rope_scaling") == (LLAMA3_ROPE if name.startswith("llama3") else None)


@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3"])
def test_stock_tokenizer_knows_pause_and_keeps_it_out_of_texts(
    converted: dict[str, tuple[Path, Path]], name: str
) -> None:
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in converted[f"{name} in fp32"])
    assert after.convert_tokens_to_ids("<pause>") == len(before)
    text = "a literal <pause> in text, and more"
    assert after.encode(text) == before.encode(text)
    if before.chat_template:
        chat = [{"role": "user", "content": text}]
        [expected, found] = (each.apply_chat_template(chat)["input_ids"] for each in (before, after))
        assert found == expected
        assert found[-1] == before.convert_tokens_to_ids("<|im_end|>")


def bake(checkpoint: Path, output: Path) -> None:
    convert_to_hf(ConvertToHfConfig(checkpoint=checkpoint, output=output, bake_pauses=3))


def test_pauses_that_transformers_would_drop_are_not_baked(
    converted: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    checkpoints = {name: converted[f"{name} in fp32"][1].with_name("checkpoint") for name in ("qwen2", "qwen3")}
    with pytest.raises(AssertionError, match=r"--bake-pauses 3: transformers loads .* as Qwen2Tokenizer"):
        run_distributed(bake, 1, checkpoints["qwen2"], tmp_path / "qwen2")
    run_distributed(bake, 1, checkpoints["qwen3"], tmp_path / "qwen3")
    baked = AutoTokenizer.from_pretrained(tmp_path / "qwen3")
    pause_id = baked.encode("a")[-1]
    assert baked.encode("a")[-3:] == [pause_id] * 3
    chat = baked.apply_chat_template([{"role": "user", "content": "a"}], add_generation_prompt=True)["input_ids"]
    assert chat[-3:] == [pause_id] * 3


def test_a_qwen2_with_another_tokenizer_is_refused(
    foreign: Callable[..., Path], converted: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    source = shutil.copytree(foreign("llama3"), tmp_path / "model")
    vocab_size = len(AutoTokenizer.from_pretrained(source)) + PADDING_ROWS
    foreign_model("qwen2", vocab_size).save_pretrained(source)
    with pytest.raises(AssertionError, match="as Qwen2Tokenizer, which encodes texts differently"):
        run_distributed(convert_all, 1, tmp_path, {"other in fp32": source})


def test_printed_flags_give_the_imported_model(converted: dict[str, tuple[Path, Path]]) -> None:
    from pause_megatron.cli.flags import parse
    from pause_megatron.config.pretrain import PretrainConfig
    from pause_megatron.conversion.from_hf import _flags

    required = ["--data", "D", "--output", "O", "--tokenizer", "T", "--deepspeed", "zero1_fp32", "--train-iters", "1"]
    for name in FOREIGN:
        folder = converted[f"{name} in fp32"][1].with_name("checkpoint")
        model = ModelConfig(**CheckpointReader(folder).state["config"]["model"])
        assert parse(PretrainConfig, "pretrain", [*required, *_flags(model).split()]).model == model


MODELS = {
    f"{name}{'' if untied else ', tied'}": replace(model, untie_embeddings_and_output_weights=untied)
    for name, model in {"llama3": LLAMA3, "qwen2": QWEN2, "qwen3": QWEN3}.items()
    for untied in (True, False)
}
TP2 = ParallelConfig(tensor_model_parallel_size=2)
LAYOUTS = {
    "TP 2": (TP2, 1),
    "TP 2, SP": (replace(TP2, sequence_parallel=True), 1),
    "TP 2, ZeRO-3": (TP2, 3),
    "PP 2": (ParallelConfig(pipeline_model_parallel_size=2), 1),
}
STEPS = 2


def test_two_steps_are_those_of_one_process_and_export(tmp_path: Path) -> None:
    """Losses and gradient norms on batches with pauses; each checkpoint is exported with the check of its logits."""
    [expected] = run_distributed(train_all, 1, [Run(model=model, last_step=STEPS) for model in MODELS.values()])
    cases = [(name, layout) for name in MODELS for layout in LAYOUTS]
    runs = [
        Run(
            model=MODELS[name],
            parallel=LAYOUTS[layout][0],
            zero_stage=LAYOUTS[layout][1],
            last_step=STEPS,
            save=tmp_path / name / layout / "checkpoints",
        )
        for name, layout in cases
    ]
    of_one = dict(zip(MODELS, expected, strict=True))
    for of_process in run_distributed(train_all, 2, runs):
        for (name, layout), curve in zip(cases, of_process, strict=True):
            assert max(largest_differences(of_one[name], curve)) <= TOLERANCE, (name, layout)
    run_distributed(export_all, 1, tmp_path, cases)


def export_all(folder: Path, cases: list[tuple[str, str]]) -> None:
    """Export, check and import the checkpoint of every run."""
    for name, layout in cases:
        model, run = MODELS[name], folder / name / layout
        checkpoint = latest_checkpoint(run)
        assert checkpoint
        reader = CheckpointReader(checkpoint)
        (run / "hf").mkdir()
        write_model(run / "hf", reader, model, SmallVocabulary())
        for method in ("whole", "layers"):
            assert prove(run / "hf", reader, model, method).passed, (name, layout)  # type: ignore[arg-type]
        loaded = AutoModelForCausalLM.from_pretrained(run / "hf")
        assert loaded.config.model_type == hf_model_type(model)
        assert loaded.num_parameters() == model.num_parameters(VOCAB_SIZE)
        assert_imports_exactly(run / "hf", reader, model)


WITHOUT = {
    "llama3": {
        name: getattr(ModelConfig, name) for name in vars(LLAMA3) if name.startswith("rope_") or "scaling" in name
    },
    "qwen2": {"add_qkv_bias": False},
    "qwen3": {"qk_layernorm": False},
}
"""Settings that turn each model into a plain Llama."""


def test_the_settings_change_the_losses_and_norms() -> None:
    """The comparisons above would see a setting that is not applied."""
    models = [LLAMA3, QWEN2, QWEN3]
    plain = [replace(model, **WITHOUT[name]) for name, model in zip(WITHOUT, models, strict=True)]
    [found] = run_distributed(train_all, 1, [Run(model=model, last_step=STEPS) for model in (*models, *plain)])
    for one, other in zip(found[:3], found[3:], strict=True):
        assert max(largest_differences(one, other)) > 5 * TOLERANCE
