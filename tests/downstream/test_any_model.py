"""Models of other projects: finetuned with an added ``<pause>``, evaluated and generated from with pauses."""

import json
from pathlib import Path

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pause_megatron.cli.main import main
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.pausing import FinetunePausing, InferencePausing
from pause_megatron.downstream.added_pause import add_pause
from pause_megatron.downstream.evaluate import evaluate
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generation import generate_after, generate_texts
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import decided_finetuning, resolve_pausing
from pause_megatron.errors import EXIT_USER, UserError
from pause_megatron.tokenizer.pause_tokenizer import EDGE_CASE_TEXTS
from tests.downstream.foreign_models import CONTEXT_LENGTH, SHAPES, make_model
from tests.downstream.settings import changed
from tests.downstream.test_generation import NEW_TOKENS, recomputed
from tests.downstream.test_harness_model import CONTEXTS, LONG, PAIRS, generated, scored

PROMPT = "0110100110010110:"
NUM_PAUSES = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder of a model by its shape; each is made once."""
    folders: dict[str, Path] = {}

    def folder_of(shape: str) -> Path:
        if shape not in folders:
            folders[shape] = make_model(shape, tmp_path_factory.mktemp("models") / shape)
        return folders[shape]

    return folder_of


@pytest.fixture(scope="module", params=SHAPES)
def base(request, models) -> Path:
    return models(request.param)


@pytest.fixture(scope="module")
def tuned(base, parity_data, tmp_path_factory) -> Path:
    """``base`` finetuned for two steps, with ``<pause>`` added."""
    output = tmp_path_factory.mktemp("tuned") / base.name
    finetune(
        FinetuneConfig(
            model=base,
            task="parity",
            data=parity_data,
            output=output,
            add_pause="normal",
            pausing=FinetunePausing(num_pauses_ft=NUM_PAUSES),
            steps=2,
            batch_size=4,
            warmup_steps=0,
        )
    )
    return output


def prefix_of(folder: ModelFolder, text: str, pausing: InferencePausing):
    resolved = resolve_pausing(folder, pausing)
    return resolved.prefix(folder, text, folder.encode(text), folder.context_length - NEW_TOKENS)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_generation_after_pauses_equals_recomputing_every_step(tuned, attention):
    folder = load_model_folder(tuned)
    assert folder.finetuning.prefix_attention == "bidirectional"
    prefixes = [prefix_of(folder, text, InferencePausing(prefix_attention=attention)) for text in (PROMPT, "01:")]
    assert all(prefix.ids[-NUM_PAUSES:].tolist() == [folder.pause_id] * NUM_PAUSES for prefix in prefixes)
    bidirectional = attention == "bidirectional"
    found = generate_after(folder, prefixes, bidirectional=bidirectional, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert found == [recomputed(folder, prefix.ids, bidirectional) for prefix in prefixes]


def test_it_is_evaluated_and_generated_from_with_and_without_pauses(tuned, parity_data, tmp_path, capsys):
    flags = ["--model", str(tuned), "--task", "parity", "--data", str(parity_data), "--num-pauses-inf", "0", "3"]
    assert main(["evaluate", *flags, "--output", str(tmp_path / "inf{num_pauses_inf}.json")]) == 0
    for number in (0, NUM_PAUSES):
        record = json.loads((tmp_path / f"inf{number}.json").read_text())
        assert (record["num_pauses_inf"], record["num_samples"]) == (number, 20)
        assert record["variant"] == "stdpt_pauseft"
    capsys.readouterr()
    assert main(["generate", "--model", str(tuned), "--prompt", PROMPT, "--max-new-tokens", "4"]) == 0
    [text] = generate_texts(load_model_folder(tuned), [PROMPT], max_new_tokens=4)
    assert capsys.readouterr().out == f"{text}\n"


def test_without_pauses_it_equals_stock(base):
    folder = load_model_folder(base)
    hf = HFLM(
        AutoModelForCausalLM.from_pretrained(base),
        backend="causal",
        tokenizer=AutoTokenizer.from_pretrained(base),
        batch_size=3,
        max_length=CONTEXT_LENGTH,
        add_bos_token=bool(folder.bos_ids),
    )
    ours = PauseLM(folder, Pausing(num_pauses=0), batch_size=3)
    # Stock cuts the beginning-of-text token off a prompt that is too long; this project keeps it.
    pairs = [pair for pair in PAIRS if not (folder.bos_ids and LONG in pair)]
    contexts = [context for context in CONTEXTS if not (folder.bos_ids and context == LONG)]
    for (score, greedy), (expected, expected_greedy) in zip(scored(ours, pairs), scored(hf, pairs), strict=True):
        assert score == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy
    assert generated(ours, contexts) == generated(hf, contexts)


def test_added_pause_is_no_text_and_other_ids_stay(base, tuned):
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(tuned)
    pause_id = len(before)
    name = "\ue000pause\ue000" if base.name == "qwen2" else "<pause>"  # transformers builds Qwen2's anew
    assert after.get_vocab()[name] == pause_id
    assert after.chat_template == before.chat_template
    for text in (*EDGE_CASE_TEXTS, "<|im_start|>a  <pause>b    <|im_end|><think>"):
        if text != "<pause>":  # a text that is exactly that is the pause, as in exports with a chat template
            assert after.encode(text, verbose=False) == before.encode(text, verbose=False)
    assert after.decode([5, pause_id, 6], skip_special_tokens=True) == before.decode([5, 6])
    folder = load_model_folder(tuned)
    assert folder.pause_ids == (pause_id,)
    assert folder.encode("a <pause>b") == load_model_folder(base).encode("a <pause>b")


@pytest.mark.parametrize("initialization", ["mean", "normal"])
def test_rows_of_an_added_pause_are_initialized_from_the_others(base, initialization):
    folder = load_model_folder(base)
    before = {name: tensor.clone() for name, tensor in folder.model.state_dict().items()}
    added = add_pause(folder, initialization, seed=1)
    pause, vocabulary = added.pause_id, len(folder.tokenizer)
    tied = added.model.config.tie_word_embeddings
    inputs, outputs = added.model.get_input_embeddings().weight, added.model.get_output_embeddings().weight
    assert (inputs is outputs) == tied
    rows = len(before["lm_head.weight" if "lm_head.weight" in before else "embed_out.weight"])
    assert (rows > vocabulary) == (base.name not in ("llama3", "smollm2")), "padded"
    assert len(inputs) == len(outputs) == max(rows, vocabulary + 1)
    for name, tensor in added.model.state_dict().items():
        if len(tensor) == len(inputs) and tensor.dim() == 2:
            known = before[name][:vocabulary]
            assert torch.equal(tensor[:pause], known)
            assert torch.equal(tensor[pause + 1 :], before[name][pause + 1 :])
            drawn = (tensor[pause] - known.mean(0)) / known.std(0)  # of a standard normal distribution
            if initialization == "mean":
                torch.testing.assert_close(tensor[pause], known.mean(0))
            else:
                assert 0.6 < drawn.std() < 1.5
    again = add_pause(load_model_folder(base), initialization, seed=1).model.get_input_embeddings().weight
    assert torch.equal(inputs[pause], again[pause])
    with pytest.raises(
        UserError, match=rf"--add-pause mean: .* already has <pause> \(token {pause}\); remove the flag"
    ):
        add_pause(added, "mean")


def test_stock_classes_load_the_finetuned_folder_with_the_same_logits(tuned):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        stock = AutoModelForCausalLM.from_pretrained(tuned)(ids).logits
        assert torch.equal(stock, load_model_folder(tuned).model(ids).logits)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [("bloom", "mask of both directions"), ("mamba", "mask of both directions"), ("mistral", "within 16 positions")],
)
def test_a_model_that_cannot_attend_in_both_directions_attends_causally(shape, problem, models, parity_data, tmp_path):
    folder = load_model_folder(models(shape))
    assert problem in folder.bidirectional_problem
    assert decided_finetuning(folder, FinetunePausing()).prefix_attention == "causal"
    message = rf"--prefix-attention bidirectional: not with {folder.path}: .*{problem}.*; give causal"
    with pytest.raises(UserError, match=message):
        decided_finetuning(folder, FinetunePausing(prefix_attention="bidirectional"))
    with pytest.raises(UserError, match=message):
        resolve_pausing(folder, InferencePausing(prefix_attention="bidirectional"))
    config = FinetuneConfig(
        model=folder.path,
        task="parity",
        data=parity_data,
        output=tmp_path / "tuned",
        add_pause="mean",
        pausing=FinetunePausing(num_pauses_ft=2),
        steps=1,
        batch_size=2,
        warmup_steps=0,
    )
    finetune(config)
    tuned = load_model_folder(config.output)
    assert tuned.finetuning.prefix_attention == "causal"
    asked = EvaluateConfig(model=config.output, task="parity", data=parity_data, output=tmp_path / "result.json")
    evaluate(changed(asked, limit=3))
    one, batch = (
        [text for part in parts for text in generate_texts(tuned, part, max_new_tokens=4)]
        for parts in ([[PROMPT], ["01:"]], [[PROMPT, "01:"]])
    )
    assert one == batch


def test_a_bidirectional_prefix_is_tried_on_every_shape(base):
    assert load_model_folder(base).bidirectional_problem is None


def test_buffers_in_files_of_older_versions_are_ignored(models, tmp_path):
    """The published Pythia files have masks and rotary frequencies next to the weights."""
    folder = make_model("pythia", tmp_path / "pythia")
    tensors = load_file(folder / "model.safetensors")
    for layer in range(2):
        name = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{name}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        tensors[f"{name}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{name}.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model_folder(folder).context_length == CONTEXT_LENGTH


def test_a_model_without_pause_points_to_the_flag_that_adds_it(models, parity_data, tmp_path):
    model = models("smollm2")
    config = FinetuneConfig(model=model, task="parity", data=parity_data, output=tmp_path / "tuned")
    with pytest.raises(
        UserError, match=f"--num-pauses-ft 10: {model} has no <pause> token; give --add-pause normal, or"
    ):
        finetune(config)
    with pytest.raises(UserError, match=r"--num-pauses-inf 2: .* finetune it with `finetune --add-pause`, or give"):
        resolve_pausing(load_model_folder(model), InferencePausing(num_pauses_inf=2))


def test_a_missing_model_is_one_line_before_any_data(monkeypatch, tmp_path, capsys):
    """The task's data would be downloaded, too."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("pause_megatron.downstream.finetune.load_task", lambda *_, **__: pytest.fail("read the data"))
    monkeypatch.setattr("pause_megatron.downstream.evaluate.load_task", lambda *_, **__: pytest.fail("read the data"))
    for command in (["finetune", "--num-pauses-ft", "0"], ["evaluate"]):
        flags = ["--model", "nobody/no-model", "--task", "gsm8k", "--output", str(tmp_path / "out")]
        assert main([*command, *flags]) == EXIT_USER
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith(
            "error: nobody/no-model: no such folder, and no model of this name in the cache of the hub"
        )
        assert "`hf download nobody/no-model`" in line
        assert "HF_HOME" in line
        assert "HF_HUB_OFFLINE=1" in line


def test_a_model_in_the_cache_of_the_hub_is_found_by_its_name(models, monkeypatch, tmp_path):
    """The cache is laid out as the hub's library lays it out: a snapshot of links to blobs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--someone--tiny-llama", "0" * 40
    snapshot = repository / "snapshots" / commit
    for part in (snapshot, repository / "blobs", repository / "refs"):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in models("smollm2").iterdir():
        (repository / "blobs" / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(repository / "blobs" / file.name)
    folder = load_model_folder("someone/tiny-llama")
    assert folder.path == Path("someone/tiny-llama")
    assert folder.model_name == "tiny-llama"
    assert folder.files == snapshot
    local = load_model_folder(models("smollm2"))
    assert generate_texts(folder, [PROMPT], max_new_tokens=4) == generate_texts(local, [PROMPT], max_new_tokens=4)


def test_importing_the_library_leaves_other_libraries_logging(tmp_path):
    """Only commands keep them quiet."""
    import subprocess
    import sys

    program = (
        "import logging, os; before = dict(os.environ)\n"
        "import pause_megatron.downstream.generation, pause_megatron.conversion.to_hf\n"
        "changed = {key for key in os.environ if before.get(key) != os.environ[key]}\n"
        "assert not changed & {'TQDM_DISABLE', 'TRANSFORMERS_VERBOSITY'}, changed\n"
        "assert logging.getLogger('lm_eval').level == logging.NOTSET\n"
        "assert logging.getLogger('accelerate').level == logging.NOTSET\n"
        "assert not logging.getLogger('DeepSpeed').filters\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
