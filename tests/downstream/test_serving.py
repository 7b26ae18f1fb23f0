"""A baked finetuned model gives the same ids here, in a stock pipeline and from ``transformers serve`` over HTTP."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, GenerationConfig, pipeline
from transformers.utils.import_utils import is_serve_available

from pause_megatron.cli.main import main
from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing, InferencePausing
from pause_megatron.config.serving import BakeConfig
from pause_megatron.downstream.bake import bake
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generation import generate_after
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.errors import EXIT_USER, UserError
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.files import read_record, write_record
from tests.downstream.foreign_models import make_model
from tests.downstream.settings import changed
from tests.records.examples import example

NUM_PAUSES = 3
NEW_TOKENS = 8
PROMPTS = ["0110100110010110:", "The import statement", "a class is a <pause>"]
KINDS = ("gpt2", "smollm2", "qwen2")
"""A model with ``<pause>`` and the project's tokenizer, and two with it added, the last with a chat template."""


@pytest.fixture(scope="module", params=KINDS)
def tuned(request, model_path, parity_data, tmp_path_factory) -> Path:
    """A model finetuned for two steps with causal pauses after the prompt."""
    place = tmp_path_factory.mktemp("served")
    known = request.param == "gpt2"
    model = model_path("gpt2") if known else make_model(request.param, place / "base")
    finetune(
        FinetuneConfig(
            model=model,
            task="parity",
            data=parity_data,
            output=place / "tuned",
            add_pause=None if known else "normal",
            pausing=FinetunePausing(num_pauses_ft=NUM_PAUSES, prefix_attention="causal"),
            steps=2,
            batch_size=4,
            warmup_steps=0,
        )
    )
    return place / "tuned"


@pytest.fixture(scope="module")
def baked(tuned) -> Path:
    output = tuned.with_name("baked")
    assert main(["bake", "--model", str(tuned), "--output", str(output)]) == 0
    return output


def ours(folder: Path) -> list[list[int]]:
    """The ids that this project's generation adds to each prompt with the pauses of finetuning."""
    loaded = load_model_folder(folder)
    pausing = resolve_pausing(loaded, InferencePausing())
    assert pausing.num_pauses == NUM_PAUSES
    room = loaded.context_length - NEW_TOKENS
    prefixes = [pausing.prefix(loaded, prompt, loaded.encode(prompt), room) for prompt in PROMPTS]
    return generate_after(loaded, prefixes, bidirectional=False, max_new_tokens=NEW_TOKENS, do_sample=False)


def without_end(ids: list[int], eod_id: int) -> list[int]:
    return ids[: ids.index(eod_id)] if eod_id in ids else ids


def test_stock_pipeline_gives_the_same_ids(tuned, baked):
    expected = ours(tuned)
    assert ours(baked) == expected
    pipe = pipeline("text-generation", model=str(baked), device="cpu")
    eod_id = pipe.tokenizer.eos_token_id
    found = []
    for prompt in PROMPTS:
        [answer] = pipe(prompt, max_new_tokens=NEW_TOKENS, do_sample=False, return_tensors=True)
        prefix = pipe.tokenizer(prompt)["input_ids"]
        assert prefix[-NUM_PAUSES:] == [load_model_folder(tuned).pause_id] * NUM_PAUSES
        found.append(without_end(answer["generated_token_ids"][len(prefix) :], eod_id))
    assert found == expected
    plain = pipeline("text-generation", model=str(tuned), device="cpu")
    assert plain.tokenizer(PROMPTS[0])["input_ids"] == pipe.tokenizer(PROMPTS[0])["input_ids"][:-NUM_PAUSES]


@contextmanager
def served(folder: Path, log: Path) -> Iterator[str]:
    """``transformers serve`` with the model of ``folder``; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    program = "from transformers.cli.transformers import main; main()"
    words = [sys.executable, "-c", program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with open(log, "w") as output:
        process = subprocess.Popen(
            [*words, "--device", "cpu"], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def posted(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.loads(response.read())


serving = pytest.mark.skipif(
    not is_serve_available(), reason="no fastapi, uvicorn and openai (extra 'test'); transformers serve was not checked"
)


@serving
def test_transformers_serve_gives_the_same_ids_over_http(tuned, baked, tmp_path):
    expected, tokenizer = ours(tuned), AutoTokenizer.from_pretrained(baked)
    has_own_template = AutoTokenizer.from_pretrained(tuned).chat_template is not None
    with served(baked, tmp_path / "log") as address:
        common = {"model": str(baked), "temperature": 0.0}
        for prompt, ids in zip(PROMPTS, expected, strict=True):
            answer = posted(f"{address}/v1/completions", {**common, "prompt": prompt, "max_tokens": NEW_TOKENS})
            assert answer["choices"][0]["text"] == tokenizer.decode(ids, skip_special_tokens=True)
            assert answer["usage"]["prompt_tokens"] == len(tokenizer(prompt)["input_ids"])
            assert answer["usage"]["completion_tokens"] - len(ids) in (0, 1)  # with or without the end
            if not has_own_template:  # otherwise a chat has tokens that the finetuning did not have
                chat = [{"role": "user", "content": prompt}]
                answer = posted(
                    f"{address}/v1/chat/completions", {**common, "messages": chat, "max_tokens": NEW_TOKENS}
                )
                assert answer["choices"][0]["message"]["content"] == tokenizer.decode(ids, skip_special_tokens=True)


@serving
def test_harness_decodes_from_transformers_serve(tuned, baked, tmp_path):
    """``local-completions`` of lm-evaluation-harness reads the pauses that the server's tokenizer adds."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    expected, tokenizer = ours(tuned), AutoTokenizer.from_pretrained(baked)
    with served(baked, tmp_path / "log") as address:
        model = LocalCompletionsAPI(
            model=str(baked),
            base_url=f"{address}/v1/completions",
            tokenizer_backend=None,
            tokenized_requests=False,
            eos_string=tokenizer.eos_token,
        )
        settings = {"until": ["\n\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False, "temperature": 0.0}
        requests = [Instance("generate_until", {}, (prompt, dict(settings)), n) for n, prompt in enumerate(PROMPTS)]
        found = model.generate_until(requests, disable_tqdm=True)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert found == [text.partition("\n\n")[0] for text in texts]


def test_card_of_a_finetuned_model_has_valid_metadata_and_states_its_pauses(tuned, baked):
    plain, of_baked = (ModelCard.load(folder / "README.md") for folder in (tuned, baked))
    for card in (plain, of_baked):
        card.data.to_yaml()
        assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
        assert "pause-training" in card.data.tags
        for row in (
            f"| pauses | {NUM_PAUSES} |",
            "| placement | after the prompt |",
            "| input at a pause | `<pause>` |",
        ):
            assert row in card.text
        assert "| attention of prompt and pauses | causal |" in card.text
    assert "**Other programs do not pause with this model.**" in plain.text
    assert f"**Stock programs pause with this model.** Its tokenizer appends {NUM_PAUSES} pauses" in of_baked.text


def programs_of(card: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", ["tuned", "baked"])
def test_programs_in_a_card_run_when_they_are_pasted(tuned, baked, name, monkeypatch, capsys):
    monkeypatch.chdir(tuned.parent)
    programs = programs_of(tuned.with_name(name) / "README.md")
    assert len(programs) == 2
    outputs = []
    for program in programs:
        exec(program, {})
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1], "both programs pause as in finetuning"


def test_card_keeps_the_metadata_of_the_base_and_adds_results(tuned, parity_data, tmp_path):
    base = shutil.copytree(tuned, tmp_path / "base")
    (base / "finetune.json").unlink()
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\ndatasets: a/b\nbase_model: c/d\n---\n# A model\n")
    config = FinetuneConfig(
        model=base,
        task="parity",
        data=parity_data,
        output=tmp_path / "again",
        pausing=FinetunePausing(num_pauses_ft=2, prefix_attention="causal"),
        steps=1,
        batch_size=2,
    )
    finetune(config)
    result = tmp_path / "result.json"
    flags = ["--task", "parity", "--data", str(parity_data), "--output", str(result)]
    assert main(["evaluate", "--model", str(config.output), *flags]) == 0
    bake(BakeConfig(model=config.output, output=tmp_path / "baked", evaluations=(result,)))
    data = ModelCard.load(tmp_path / "baked" / "README.md").data
    assert (data.license, data.language, data.datasets, data.base_model) == ("mit", "en", ["a/b"], "c/d")
    [shown] = data.eval_results
    record = json.loads(result.read_text())
    assert (shown.dataset_type, shown.metric_type) == ("parity", record["primary_metric"])
    assert shown.metric_value == record["metrics"][record["primary_metric"]]["value"]
    assert shown.metric_name.endswith("2 pauses, causal attention")


def test_baked_folder_keeps_weights_and_records_and_never_emits_a_pause(tuned, baked):
    before, after = load_model_folder(tuned), load_model_folder(baked)
    assert (before.baked_pauses, after.baked_pauses) == (0, NUM_PAUSES)
    assert after.finetuning.summary() == before.finetuning.summary()
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])
    assert GenerationConfig.from_pretrained(baked).suppress_tokens == [before.pause_id]
    with pytest.raises(UserError, match="exists already"):
        bake(BakeConfig(model=tuned, output=baked))
    with pytest.raises(UserError, match=r"--num-pauses 3: the tokenizer already has baked pauses"):
        bake(BakeConfig(model=baked, output=baked.with_name("twice")))
    assert not baked.with_name("twice").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_pauses_ft": 0}, "was not finetuned with pauses; give --num-pauses, for example 10"),
        ({"prefix_attention": "bidirectional"}, "attention in both directions, .* give --prefix-attention causal here"),
        ({"pause_placement": "prepend"}, r"finetuned with pauses \(prepend\) that are not <pause> after the prompt"),
        ({"filler": "."}, r"finetuned with pauses \(append\) that are not <pause> after the prompt"),
    ],
    ids=["none", "both directions", "prepended", "filler"],
)
def test_models_that_other_programs_cannot_run_are_refused(model_path, parity_data, tmp_path, settings, message):
    config = FinetuneConfig(
        model=model_path("llama"), task="parity", data=parity_data, output=tmp_path / "ft", steps=1, batch_size=2
    )
    finetune(changed(config, **{"num_pauses_ft": 2, "prefix_attention": "causal", **settings}))
    with pytest.raises(UserError, match=f"--model {config.output}: .*{message}"):
        bake(BakeConfig(model=config.output, output=tmp_path / "baked"))
    assert not (tmp_path / "baked").exists()
    if "bidirectional" in settings.values():
        bake(BakeConfig(model=config.output, output=tmp_path / "baked", prefix_attention="causal"))
        assert load_model_folder(tmp_path / "baked").baked_pauses == 2
        assert "let the prompt attend only backwards" in (tmp_path / "baked" / "README.md").read_text()


def test_an_export_is_baked_with_a_given_number(model_path, tmp_path):
    export = shutil.copytree(model_path("llama"), tmp_path / "export")
    report = example(ExportRecord)
    pretraining = replace(report.pretraining, pauses="sequence", pauses_per_token=None, pause_inputs=None, filler=None)
    model = {"architecture": "llama", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    source = {**report.source, "config": {"model": model, "data": []}}
    write_record(export / ExportRecord.FILE, replace(report, pretraining=pretraining, files=None, source=source))
    with pytest.raises(UserError, match="was not finetuned with pauses; give --num-pauses"):
        bake(BakeConfig(model=export, output=tmp_path / "baked"))
    bake(BakeConfig(model=export, output=tmp_path / "baked", num_pauses=5))
    assert read_record(tmp_path / "baked" / ExportRecord.FILE, ExportRecord).tokenizer.baked_pauses == 5
    assert load_model_folder(tmp_path / "baked").baked_pauses == 5
    assert "appends 5 of them to every prompt" in (tmp_path / "baked" / "README.md").read_text()
    every = replace(pretraining, pauses="every")
    write_record(export / ExportRecord.FILE, replace(report, pretraining=every, files=None, source=source))
    with pytest.raises(UserError, match="pauses after every token in training"):
        bake(BakeConfig(model=export, output=tmp_path / "other", num_pauses=5))


@pytest.mark.parametrize("command", ["finetune", "bake", "convert-to-hf"])
def test_upload_without_a_hub_is_refused_before_the_work(command, model_path, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    flags = {
        "finetune": ["--model", str(model_path("gpt2")), "--task", "gsm8k"],
        "bake": ["--model", str(model_path("gpt2")), "--num-pauses", "3"],
        "convert-to-hf": ["--checkpoint", str(tmp_path / "absent")],
    }[command]
    output = tmp_path / "out"
    assert main([command, *flags, "--output", str(output), "--push-to-hub", "someone/model"]) == EXIT_USER
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("error: --push-to-hub someone/model: the hub cannot be reached, or refuses the login")
    assert line.endswith(f"or leave the flag out and run `hf upload someone/model {output}` later")
    assert not output.exists()
    assert main([command, *flags, "--output", str(output), "--push-to-hub", "a/b/c"]) == EXIT_USER
    assert "--push-to-hub a/b/c: not a repository on the hub; write it as OWNER/NAME" in capsys.readouterr().err
