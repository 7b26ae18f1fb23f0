"""A baked export in stock programs gives the texts of this project's generation, and docs/inference.md runs."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing, InferencePausing
from pause_megatron.conversion.hf_config import hf_generation_config
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generation import generate_texts
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.errors import UserError
from pause_megatron.tokenizer.baking import bake_pauses
from tests.downstream.test_harness_model import generated, scored

NUM_PAUSES = 3
NEW_TOKENS = 8
PROMPTS = ["The import statement", "a class is a <pause>", "x"]
DOCUMENT = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")
SETTINGS = {"max_new_tokens": NEW_TOKENS, "do_sample": False}


@dataclass(frozen=True)
class Exports:
    """One random model saved with a plain tokenizer, and with one that pauses."""

    plain: ModelFolder
    baked: ModelFolder


@pytest.fixture
def exports(folder, tmp_path) -> Exports:
    folder.model.generation_config = hf_generation_config(pause_ids=folder.pause_ids, eod_id=folder.eod_id)
    for name, num_pauses in (("plain", 0), ("baked", NUM_PAUSES)):
        folder.model.save_pretrained(tmp_path / name)
        bake_pauses(folder.tokenizer, num_pauses).save_pretrained(tmp_path / name)
    return Exports(load_model_folder(tmp_path / "plain"), load_model_folder(tmp_path / "baked"))


def ours(folder: ModelFolder, prompts: list[str], num_pauses: int) -> list[str]:
    pausing = InferencePausing(num_pauses_inf=num_pauses, prefix_attention="causal")
    return generate_texts(folder, prompts, pausing=pausing, max_new_tokens=NEW_TOKENS)


def stock(folder: ModelFolder, prompts: list, **settings) -> list[str]:
    """What transformers' pipeline adds to each prompt."""
    pipe = pipeline("text-generation", model=str(folder.path), device="cpu")
    answers = pipe(prompts, return_full_text=False, **SETTINGS, **settings)
    return [answer["generated_text"] for [answer] in answers]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_stock_pipeline_pauses_on_a_baked_export_and_only_there(exports, batch_size):
    paused, unpaused = (ours(exports.plain, PROMPTS, count) for count in (NUM_PAUSES, 0))
    assert stock(exports.baked, PROMPTS, batch_size=batch_size) == paused
    assert stock(exports.plain, PROMPTS) == unpaused
    assert paused != unpaused


def test_stock_generate_on_a_padded_batch_gives_the_same_tokens(exports):
    tokenizer = AutoTokenizer.from_pretrained(exports.baked.path)
    model = AutoModelForCausalLM.from_pretrained(exports.baked.path)
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    assert (batch["input_ids"][:, -NUM_PAUSES:] == exports.plain.pause_id).all()
    assert not batch["attention_mask"].all()
    output = model.generate(**batch, **SETTINGS)[:, batch["input_ids"].shape[1] :]
    assert tokenizer.batch_decode(output, skip_special_tokens=True) == ours(exports.plain, PROMPTS, NUM_PAUSES)


def test_stock_chat_pauses_before_its_answer(exports):
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    asked = exports.baked.tokenizer.apply_chat_template(chats[0], add_generation_prompt=True)["input_ids"]
    assert asked[-NUM_PAUSES:] == [exports.plain.pause_id] * NUM_PAUSES
    answers = [answer[-1]["content"] if isinstance(answer, list) else answer for answer in stock(exports.baked, chats)]
    assert answers == ours(exports.plain, PROMPTS, NUM_PAUSES)


def test_stock_sampling_never_emits_a_pause(exports):
    model = AutoModelForCausalLM.from_pretrained(exports.baked.path)
    assert GenerationConfig.from_pretrained(exports.baked.path).suppress_tokens == [exports.plain.pause_id]
    batch = exports.baked.tokenizer(["x"] * 400, return_tensors="pt")
    torch.manual_seed(0)
    sampling = {"do_sample": True, "temperature": 50.0, "top_k": 0, "max_new_tokens": 50, "min_new_tokens": 50}
    drawn = model.generate(**batch, **sampling)[:, batch["input_ids"].shape[1] :]
    assert (drawn != exports.plain.pause_id).all()
    assert len(drawn.unique()) > 500


def test_our_own_generation_and_evaluation_do_not_pause_twice(exports):
    for count in (0, 2):
        assert ours(exports.baked, PROMPTS, count) == ours(exports.plain, PROMPTS, count)
    plain, baked = (PauseLM(folder, Pausing(num_pauses=2), batch_size=4) for folder in (exports.plain, exports.baked))
    assert generated(baked) == generated(plain)
    assert scored(baked) == scored(plain)


@pytest.mark.parametrize(
    "pausing",
    [
        FinetunePausing(num_pauses_ft=NUM_PAUSES + 1),
        FinetunePausing(num_pauses_ft=NUM_PAUSES, pause_placement="every"),
        FinetunePausing(num_pauses_ft=NUM_PAUSES, pause_placement="prepend"),
        FinetunePausing(num_pauses_ft=NUM_PAUSES, filler="1"),
        FinetunePausing(num_pauses_ft=NUM_PAUSES, pause_inputs="repeat"),
    ],
    ids=["other number", "every", "prepend", "filler", "repeat"],
)
def test_finetuning_with_other_pauses_than_the_baked_ones_is_refused(exports, parity_data, pausing, tmp_path):
    config = FinetuneConfig(
        model=exports.baked.path, task="parity", data=parity_data, output=tmp_path / "ft", pausing=pausing
    )
    with pytest.raises(UserError, match=f"with {NUM_PAUSES} pauses .--bake-pauses.*give --num-pauses-ft {NUM_PAUSES}"):
        finetune(config)
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "baked"}


def test_finetuning_keeps_baked_pauses_that_are_its_own(exports, parity_data, tmp_path):
    config = FinetuneConfig(
        model=exports.baked.path,
        task="parity",
        data=parity_data,
        output=tmp_path / "ft",
        pausing=FinetunePausing(num_pauses_ft=NUM_PAUSES),
        steps=1,
        batch_size=2,
    )
    finetune(config)
    assert load_model_folder(tmp_path / "ft").baked_pauses == NUM_PAUSES
    assert exports.plain.baked_pauses == 0


def shown(language: str) -> list[str]:
    """The document's code blocks in ``language``."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    return [block for name, block in blocks if name == language]


def test_documented_python_runs(exports, tmp_path, monkeypatch):
    for source, shown_path in ((exports.plain, "ft/pausept_pauseft"), (exports.baked, "hf/pausept-1b-baked")):
        shutil.copytree(source.path, tmp_path / shown_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in shown("python"):
        exec(block, names)
    assert names["answers"] == generate_texts(
        exports.plain, ["0110100110010110:", "01101:"], pausing=InferencePausing(num_pauses_inf=10), max_new_tokens=4
    )
    assert len(names["samples"]) == 3
