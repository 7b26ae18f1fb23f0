"""An answer ends at each stop token of a model's generation config, not only at its end of document."""

import json
import shutil
from dataclasses import replace

import pytest
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from pause_megatron.config.pausing import InferencePausing
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generation import generate_after, generate_texts
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.errors import UserError
from tests.downstream.random_models import CONTEXT_LENGTH
from tests.downstream.settings import one_step
from tests.downstream.test_harness_model import generated

PROMPTS = ("The import statement", "A list", "Names refer to objects", "The with statement", "If a class", "Python")
NEW_TOKENS = 6


def decoded(folder: ModelFolder, pausing: InferencePausing, prompt: str) -> list[int]:
    """Ids after ``prompt``."""
    resolved = resolve_pausing(folder, pausing)
    prefix = resolved.prefix(folder, prompt, folder.encode(prompt), CONTEXT_LENGTH - NEW_TOKENS)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    [ids] = generate_after(folder, [prefix], bidirectional=resolved.bidirectional, **settings)
    return ids


def with_stop_tokens(folder: ModelFolder, stop_ids: object) -> ModelFolder:
    """``folder``, loaded again, with ``stop_ids`` in its generation config."""
    path = folder.path.with_name(f"{folder.path.name}-stopping")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder.path, path)
    file = path / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": stop_ids}))
    return load_model_folder(path)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("num_pauses", [0, 3])
def test_generation_and_evaluation_end_at_it(folder, num_pauses, attention):
    pausing = InferencePausing(num_pauses_inf=num_pauses, prefix_attention=attention)
    answers = {prompt: decoded(folder, pausing, prompt) for prompt in PROMPTS}
    prompt, ids = next(answer for answer in answers.items() if len(set(answer[1])) > 1)  # a random model can repeat
    length = next(number for number in range(1, len(ids)) if ids[number] not in ids[:number])
    stopping = with_stop_tokens(folder, [folder.eod_id, ids[length]])
    assert stopping.stop_ids == (folder.eod_id, ids[length])
    assert decoded(stopping, pausing, prompt) == ids[:length]
    text = stopping.tokenizer.decode(ids[:length], skip_special_tokens=True)
    assert generate_texts(stopping, [prompt], pausing=pausing, max_new_tokens=NEW_TOKENS) == [text]
    model = PauseLM(stopping, Pausing(num_pauses=num_pauses, prefix_attention=attention), batch_size=1)
    with_stop = stopping.tokenizer.decode(ids[: length + 1], skip_special_tokens=True)  # this one is text
    assert generated(model, [prompt]) == [with_stop]
    if num_pauses == 0 and attention == "causal":
        hf = HFLM(stopping.model, backend="causal", tokenizer=stopping.tokenizer, max_length=CONTEXT_LENGTH)
        assert generated(hf, [prompt]) == [with_stop]


def test_finetuning_keeps_it(folder, parity_data, tmp_path):
    base = with_stop_tokens(folder, 7)  # a number: the end of a turn, say, and another end of document
    assert base.stop_ids == (folder.eod_id, 7)
    config = one_step(base.path, parity_data, tmp_path / "finetuned")
    finetune(config)
    assert GenerationConfig.from_pretrained(config.output).eos_token_id == [folder.eod_id, 7]
    assert load_model_folder(config.output).stop_ids == base.stop_ids
    finetune(replace(config, model=folder.path, output=tmp_path / "other"))
    assert GenerationConfig.from_pretrained(tmp_path / "other").eos_token_id == folder.eod_id


@pytest.mark.parametrize("stop_ids", [None, [], [10**6, -1], 10**6])
def test_end_of_document_is_one_without_others_in_the_vocabulary(folder, stop_ids, capsys):
    assert with_stop_tokens(folder, stop_ids).stop_ids == (folder.eod_id,)
    assert "answers end" not in capsys.readouterr().err


def test_text_as_one_gives_a_warning(folder, capsys):
    [the] = folder.encode(" the")
    with_stop_tokens(folder, [the])
    assert f"answers end at token {the}, which is the text ' the'" in capsys.readouterr().err


@pytest.mark.parametrize("stop_ids", ["</s>", [True], [1.5], [[1]], {"a": 1}])
def test_anything_but_a_token_id_is_refused(folder, stop_ids):
    with pytest.raises(UserError, match=r"-stopping: "):
        with_stop_tokens(folder, stop_ids)
