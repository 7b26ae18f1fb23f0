"""Exports give the same logits, ids and texts in the oldest supported transformers 4 as in the installed one.

The first run installs that version into a cache folder; without a network the tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from pause_megatron.atomic import new_folder
from pause_megatron.checkpoint.checkpoint_folders import find_checkpoint
from pause_megatron.checkpoint.reader import CheckpointReader
from pause_megatron.config.conversion import ConvertFromHfConfig, ConvertToHfConfig
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pausing import FinetunePausing
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import CheckpointConfig, OptimizerConfig, TrainingConfig
from pause_megatron.conversion.from_hf import convert_from_hf
from pause_megatron.conversion.to_hf import convert_to_hf
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generated_tasks import write_task
from pause_megatron.preprocess.run import preprocess
from pause_megatron.tokenizer.make_tokenizer import add_pause
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from pause_megatron.tokenizer.tokenizer_json import WORD_PATTERNS
from pause_megatron.training.pretrain import pretrain
from tests.chain import SEQ_LENGTH, preprocess_config, texts, write_text_and_tokenizer
from tests.conversion.conftest import LLAMA3_ROPE
from tests.distributed import run_distributed
from tests.tokenizer.foreign import make_foreign

pytestmark = pytest.mark.slow

OLDEST = ("transformers==4.57.1", "tokenizers==0.22.1", "huggingface_hub==0.36.0")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pause_megatron"
SCRIPT = Path(__file__).with_name("loaded_export.py")
DEEPSPEED = Path(__file__).parents[2] / "ds_configs" / "zero1_fp32.json"
BEGIN, END, END_OF_TURN = SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEXTS = [*EDGE_CASE_TEXTS, "The capital of France is", f"{BEGIN}a{END_OF_TURN}{END} <pause>"]


@pytest.fixture(scope="module")
def oldest() -> Path:
    """Folder with the oldest supported transformers, to be found before the installed packages."""
    folder = CACHE / "-".join(name.replace("==", "-") for name in OLDEST)
    if not folder.exists():
        with new_folder(folder) as temporary:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(temporary), *OLDEST]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{' '.join(OLDEST)} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder


def llama3_tokenizer(folder: Path, lines: list[str]) -> int:
    """Write a tokenizer like Llama 3's to ``folder``; returns the size of its vocabulary."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    words = pre_tokenizers.Split(Regex(WORD_PATTERNS[0]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    begin = (BEGIN, tokenizer.token_to_id(BEGIN))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[begin]),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "chat_template": TEMPLATE,
        "model_max_length": 777,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def published_llama(folder: Path, lines: list[str]) -> None:
    """Write a random Llama with rotary base 500,000, scaled rotary positions and two stop tokens."""
    folder.mkdir()
    vocab_size = llama3_tokenizer(folder, lines)
    begin, end, end_of_turn = range(vocab_size - 3, vocab_size)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=SEQ_LENGTH,
        initializer_range=0.1,
        rope_parameters={**LLAMA3_ROPE, "rope_theta": 500_000.0},
        bos_token_id=begin,
        eos_token_id=end,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [end, end_of_turn]
    model.save_pretrained(folder)


def trained(folder: Path, tokenizer: Path, name: str, **settings: Any) -> Path:
    """A run of three steps on text with pauses; returns its folder."""
    data = folder / f"{name}-data"
    common = {"seq_length": SEQ_LENGTH, "engine": "serial"}
    preprocess(preprocess_config(input=texts(folder, "train"), tokenizer=tokenizer, output=data, **common))
    config = PretrainConfig(
        data=(str(data),),
        tokenizer=tokenizer,
        deepspeed=DEEPSPEED,
        output=folder / f"{name}-run",
        parallel=ParallelConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(train_iters=3, global_batch_size=4, micro_batch_size=2),
        checkpoint=CheckpointConfig(save_interval=3),
        **settings,
    )
    run_distributed(pretrain, 1, config)
    return config.output


def export(checkpoint: Path, output: Path, **settings: Any) -> Path:
    run_distributed(convert_to_hf, 1, ConvertToHfConfig(checkpoint=checkpoint, output=output, **settings))
    return output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that this project writes, and the published model that some of them come from."""
    folder = tmp_path_factory.mktemp("exports")
    write_text_and_tokenizer(folder)
    lines = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")]
    published_llama(folder / "published", lines)
    start = folder / "start"
    run_distributed(convert_from_hf, 1, ConvertFromHfConfig(model=folder / "published", output=start))
    model = ModelConfig(**CheckpointReader(start).state["config"]["model"])
    imported = trained(folder, start / "tokenizer", "imported", model=model, initial_checkpoint=start)
    sizes = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": SEQ_LENGTH}
    own = trained(folder, folder / "tokenizer", "own", model=ModelConfig(**sizes))
    llama = ModelConfig(**sizes, architecture="llama", num_query_groups=2, kv_channels=24, rotary_base=500_000)
    qwens = {"qwen2": replace(llama, add_qkv_bias=True), "qwen3": replace(llama, qk_layernorm=True)}
    found = {
        "published": folder / "published",
        "imported": export(imported, folder / "imported", dtype="bf16"),
        "imported, with baked pauses": export(imported, folder / "baked", bake_pauses=3),
        "own": export(own, folder / "own"),
        "own, with baked pauses": export(own, folder / "own-baked", bake_pauses=3),
        "own llama": export(trained(folder, folder / "tokenizer", "llama", model=llama), folder / "llama"),
    }
    make_foreign(folder / "qwen2-published", "qwen2", lines)
    add_pause(folder / "qwen2-published", folder / "qwen2-tokenizer")
    for name, model in qwens.items():
        found[f"own {name}"] = export(trained(folder, folder / "qwen2-tokenizer", name, model=model), folder / name)
    write_task("parity", folder / "task", seed=0, train=50, validation=5, test=5)
    for name in ("imported", "own"):
        finetuned = FinetuneConfig(
            model=found[name],
            task="parity",
            data=folder / "task",
            output=folder / f"{name}-finetuned",
            pausing=FinetunePausing(num_pauses_ft=2),
            steps=2,
            warmup_steps=0,
            batch_size=2,
        )
        run_distributed(finetune, 1, finetuned)
        found[f"{name}, finetuned"] = finetuned.output
    return found


NAMES = (
    "imported",
    "imported, with baked pauses",
    "imported, finetuned",
    "own",
    "own, with baked pauses",
    "own, finetuned",
    "own llama",
    "own qwen2",
    "own qwen3",
)


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path], oldest: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The findings of the oldest supported transformers, and of the installed one, by name of the folder."""
    work = tmp_path_factory.mktemp("loaded")
    (work / "texts.json").write_text(json.dumps(TEXTS))
    both = []
    for version, path in (("4.57.1", [str(oldest)]), (None, [])):
        output = work / f"{version}.pt"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TRANSFORMERS_VERBOSITY": "error"}
        command = [sys.executable, str(SCRIPT), str(output), str(work / "texts.json"), *map(str, folders.values())]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = torch.load(output)
        assert version in (None, found["version"])
        both.append({name: found["folders"][str(path)] for name, path in folders.items()})
    return both


@pytest.mark.parametrize("name", NAMES)
def test_both_versions_compute_the_same(loaded: list[dict[str, Any]], name: str) -> None:
    old, new = (found[name] for found in loaded)
    assert (old.pop("logits") - new.pop("logits")).abs().max() <= 1e-4
    assert old == new


def test_an_export_encodes_as_the_model_it_was_imported_from(loaded: list[dict[str, Any]]) -> None:
    _, new = loaded
    before, after, baked = (new[name] for name in ("published", "imported", "imported, with baked pauses"))
    begin, end, end_of_turn = range(len(before["logits"][0, 0]) - 3, len(before["logits"][0, 0]))
    assert all(row[0] == begin for row in after["ids"])
    plain = [index for index, text in enumerate(TEXTS) if not any(name in text for name in (*SPECIAL, "<pause>"))]
    for key in ("ids", "ids, without additions", "decoded"):
        assert [after[key][index] for index in plain] == [before[key][index] for index in plain], key
    for key in ("chat", "chat ids", "longest input"):
        assert after[key] == before[key], key
    assert after["special tokens"]["bos_token"] == BEGIN
    assert after["stop tokens"] == before["stop tokens"] == [end, end_of_turn]
    assert after["suppressed"] == [end_of_turn + 1]
    assert [row[:-3] for row in baked["ids"]] == after["ids"]


def test_training_keeps_what_the_import_read(folders: dict[str, Path]) -> None:
    """The run's checkpoint, not the folder of the import, has the stop tokens."""
    state = CheckpointReader(find_checkpoint(folders["imported"].with_name("imported-run"))).state
    assert len(state["generation"]["stop_ids"]) == 2
