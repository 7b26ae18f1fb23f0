"""Hugging Face models become checkpoints that train under any layout, and export to the same weights again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pause_megatron.checkpoint.load import load_weights
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.conversion import ComparisonConfig, ConvertFromHfConfig, ConvertToHfConfig, ProofMethod
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig, resolve_layout
from pause_megatron.conversion.from_hf import convert_from_hf
from pause_megatron.conversion.stored_weights import StoredWeights
from pause_megatron.conversion.to_hf import convert_to_hf
from pause_megatron.engine.build import build_engine
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.records.conversion import ImportRecord
from pause_megatron.records.files import read_record
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.step import Stepper
from tests.conversion.conftest import PADDING_ROWS
from tests.distributed import run_distributed
from tests.training.runs import OPTIMIZER, TRAINING, Run, batch_of

MODELS = ("gpt2", "gpt2, untied", "llama", "llama, tied")


def convert_both_ways(model: Path, output: Path, dtype: str) -> None:
    """To a checkpoint in ``output/checkpoint`` and back to ``output/hf``; in a child process."""
    convert_from_hf(ConvertFromHfConfig(model=model, output=output / "checkpoint"))
    convert_to_hf(ConvertToHfConfig(checkpoint=output / "checkpoint", output=output / "hf", dtype=dtype))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_round_trip_is_exact_except_for_the_pause_row(
    foreign: Callable[..., Path], name: str, dtype: str, torch_dtype: torch.dtype, tmp_path: Path
) -> None:
    source = foreign(name, torch_dtype)
    run_distributed(convert_both_ways, 1, source, tmp_path, dtype)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    num_known = len(AutoTokenizer.from_pretrained(source))
    assert set(after) == set(before)
    for key, tensor in before.items():
        found = after[key]
        assert found.dtype == torch_dtype
        if tensor.shape[0] == num_known + PADDING_ROWS:
            assert found.shape[0] == num_known + 1
            assert 0.5 < float(found[-1].float().norm() / tensor[:num_known].float().norm(dim=1).mean()) < 2
            tensor, found = tensor[:num_known], found[:num_known]
        assert torch.equal(tensor, found), key
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.get_vocab()["<pause>"] == num_known
    report = read_record(tmp_path / "checkpoint" / "conversion_report.json", ImportRecord)
    assert report.pause_added
    assert report.verdict.passed
    assert report.verdict.positions > 0


def import_distinct(model: Path, output: Path) -> None:
    """Import with three distinct pauses, and export; in a child process."""
    convert_from_hf(ConvertFromHfConfig(model=model, output=output / "checkpoint", distinct_pauses=3))
    convert_to_hf(ConvertToHfConfig(checkpoint=output / "checkpoint", output=output / "hf"))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_distinct_pauses_are_added_with_a_row_each(foreign: Callable[..., Path], name: str, tmp_path: Path) -> None:
    run_distributed(import_distinct, 1, foreign(name), tmp_path)
    before, after = load_file(foreign(name) / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    num_known = len(AutoTokenizer.from_pretrained(foreign(name)))
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "hf").get_vocab()
    assert [vocabulary[f"<pause{number}>"] for number in (1, 2, 3)] == list(range(num_known, num_known + 3))
    for key, tensor in before.items():
        if tensor.shape[0] == num_known + PADDING_ROWS:
            assert torch.equal(after[key][:num_known], tensor[:num_known])
            added = after[key][num_known:]
            assert len(added) == len(added.unique(dim=0)) == 3


def import_shared(model: Path, output: Path) -> None:
    """Import a model whose ``config.json`` says that pauses share positions, and export; in a child process."""
    shutil.copytree(model, output / "shared")
    config = json.loads((model / "config.json").read_text())
    (output / "shared" / "config.json").write_text(json.dumps({**config, "pause_positions": "shared"}))
    convert_from_hf(ConvertFromHfConfig(model=output / "shared", output=output / "checkpoint"))
    convert_to_hf(ConvertToHfConfig(checkpoint=output / "checkpoint", output=output / "hf"))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_shared_positions_are_kept_by_import_and_export(
    foreign: Callable[..., Path], name: str, tmp_path: Path
) -> None:
    run_distributed(import_shared, 1, foreign(name), tmp_path)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["pause_positions"] == "shared"
    assert "Stock programs do not read this key" in (tmp_path / "hf" / "README.md").read_text()


def test_an_export_imports_and_exports_to_the_same_bytes(
    foreign: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_distributed(convert_both_ways, 1, foreign("llama"), tmp_path / "first", "fp32")
    run_distributed(convert_both_ways, 1, tmp_path / "first" / "hf", tmp_path / "second", "fp32")
    first, second = (load_file(tmp_path / name / "hf" / "model.safetensors") for name in ("first", "second"))
    assert set(first) == set(second)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    report = read_record(tmp_path / "second" / "checkpoint" / "conversion_report.json", ImportRecord)
    assert not report.pause_added
    assert report.verdict.pauses > 0
    names = ("tokenizer.json", "config.json", "generation_config.json")
    for name in names:
        assert (tmp_path / "first" / "hf" / name).read_bytes() == (tmp_path / "second" / "hf" / name).read_bytes()


def test_gpt2_without_output_layer_and_name_prefix_imports(foreign: Callable[..., Path], tmp_path: Path) -> None:
    """OpenAI's files are stored so."""
    folder = shutil.copytree(foreign("gpt2"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    stripped = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(stripped, folder / "model.safetensors", metadata={"format": "pt"})
    run_distributed(convert_both_ways, 1, folder, tmp_path / "out", "fp32")
    assert set(load_file(tmp_path / "out" / "hf" / "model.safetensors")) == set(tensors)


def first_loss(checkpoint: Path, run: Run, tokens: torch.Tensor) -> float:
    """Loss of the first step on ``tokens`` of a run that begins with the weights of ``checkpoint``."""
    launch, vocab_size = detect_launch(), PauseTokenizer.load(checkpoint / "tokenizer").vocab_size
    file = run.deepspeed_file
    layout = resolve_layout(
        run.parallel, world_size=launch.world_size, model=run.model, vocab_size=vocab_size, deepspeed=file
    )
    initialize_process_groups(launch, layout, seed=0)
    model = build_local_model(run.model, layout, vocab_size=vocab_size, seed=0)
    engine = build_engine(model, deepspeed_file=file, optimizer=OPTIMIZER, training=TRAINING)
    load_weights(checkpoint, parameters=model.parameters, engine=engine)
    return Stepper(model, engine, layout, device()).accumulate(batch_of(tokens)).losses.mean


@pytest.mark.parametrize(
    ("world_size", "run"),
    [(1, Run()), (2, Run(parallel=ParallelConfig(tensor_model_parallel_size=2))), (2, Run(zero_stage=3))],
    ids=["one process", "TP 2", "ZeRO-3"],
)
def test_first_training_loss_is_the_imported_models(
    foreign: Callable[..., Path], tmp_path: Path, world_size: int, run: Run
) -> None:
    source = foreign("llama")
    run_distributed(convert_both_ways, 1, source, tmp_path, "fp32")
    reader = CheckpointReader(tmp_path / "checkpoint")
    model = ModelConfig(**reader.state["config"]["model"])
    tokens = torch.randint(3, 200, (TRAINING.global_batch_size, 33), generator=torch.Generator().manual_seed(0))
    found = run_distributed(first_loss, world_size, tmp_path / "checkpoint", replace(run, model=model), tokens)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(tokens[:, :-1]).logits
    expected = float(F.cross_entropy(_with_padding(logits, reader).flatten(0, 1), tokens[:, 1:].flatten()))
    assert found == pytest.approx([expected] * world_size, abs=1e-5)


def _with_padding(logits: torch.Tensor, reader: CheckpointReader) -> torch.Tensor:
    """Append the logits of the padding rows, which are zero."""
    rows = reader.read_parameter("output_layer.weight").shape[0]
    return F.pad(logits, (0, rows - logits.shape[-1]))


def fp8(tensors: dict[str, torch.Tensor], name: str) -> None:
    """One scale per tensor, as fp8 models are stored."""
    scale = tensors[name].abs().max() / 448
    tensors |= {name: (tensors[name] / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale.reshape(1)}


BAD_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor], str], object], str]] = {
    "fp8": (fp8, "up_proj.weight has the type F8_E4M3, so the model is quantized"),
    "int8": (lambda tensors, name: tensors.update({name: tensors[name].to(torch.int8)}), "has the type I8"),
    "missing": (lambda tensors, name: tensors.pop(name), "no tensor model.layers.1.mlp.up_proj.weight"),
    "misshapen": (lambda tensors, name: tensors.update({name: tensors[name].t().contiguous()}), "has shape"),
    "unknown": (
        lambda tensors, name: tensors.update({f"{name}_scale": torch.ones(1)}),
        "transformers reports unexpected keys, the first of 1 is model.layers.1.mlp.up_proj.weight_scale",
    ),
}


@pytest.mark.parametrize(("damage", "complaint"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_bad_tensors_are_refused(
    foreign: Callable[..., Path],
    damage: Callable[[dict[str, torch.Tensor], str], object],
    complaint: str,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(foreign("llama"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    damage(tensors, "model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssertionError, match=complaint):
        run_distributed(import_by_layers, 1, folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def import_by_layers(model: Path, output: Path) -> None:
    convert_from_hf(ConvertFromHfConfig(model=model, output=output, comparison=ComparisonConfig(proof="layers")))


@pytest.mark.parametrize("name", MODELS)
def test_by_layers_the_file_is_chosen_as_transformers_does(
    foreign: Callable[..., Path], name: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(foreign(name), tmp_path / "model")
    others = {key: 2 * tensor for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(others, folder / "zz-other.safetensors", metadata={"format": "pt"})
    run_distributed(import_by_layers, 1, folder, tmp_path / "stray")
    run_distributed(import_by_layers, 1, foreign(name), tmp_path / "clean")
    stray, clean = (load_file(tmp_path / name / "weights.safetensors") for name in ("stray", "clean"))
    assert all(torch.equal(stray[key], tensor) for key, tensor in clean.items())


def import_misreading(model: Path, output: Path, proof: ProofMethod) -> None:
    """Import with a reader of weights that doubles those of one name."""
    read = StoredWeights.__call__
    StoredWeights.__call__ = lambda self, name: read(self, name) * (2 if "up_proj" in name else 1)  # type: ignore[method-assign]
    comparison = ComparisonConfig(proof=proof)
    convert_from_hf(ConvertFromHfConfig(model=model, output=output, comparison=comparison))


@pytest.mark.parametrize("proof", ["whole", "layers"])
def test_misread_weights_are_refused(foreign: Callable[..., Path], proof: ProofMethod, tmp_path: Path) -> None:
    """The proof does not read the model with the reader that it proves."""
    with pytest.raises(AssertionError, match="logits of the two models differ by up to"):
        run_distributed(import_misreading, 1, foreign("llama"), tmp_path / "out", proof)


def test_a_wrong_layout_is_refused_and_leaves_no_folder(foreign: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="logits of the two models differ by up to"):
        run_distributed(convert_with_gate_and_up_swapped, 1, foreign("llama"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def convert_with_gate_and_up_swapped(model: Path, output: Path) -> None:
    from pause_megatron.conversion.layouts import GateAndUp

    GateAndUp.from_hf = lambda self, tensors, model, vocab_size: torch.cat(tensors[::-1])  # type: ignore[method-assign]
    convert_from_hf(ConvertFromHfConfig(model=model, output=output))
