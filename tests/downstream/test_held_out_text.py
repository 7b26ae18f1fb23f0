"""Evaluation of held-out text gives the trainer's validation loss; models pretrained with pauses after every token."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pause_megatron.cli.main import main
from pause_megatron.config.conversion import ConvertToHfConfig
from pause_megatron.config.downstream import EvaluateConfig, FinetuneConfig
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.pausing import InferencePausing
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import LoggingConfig, OptimizerConfig, TrainingConfig
from pause_megatron.conversion.to_hf import convert_to_hf
from pause_megatron.downstream.evaluate import evaluate
from pause_megatron.downstream.finetune import finetune
from pause_megatron.downstream.generation import generate_after
from pause_megatron.downstream.model_folder import load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.pausing_decisions import resolve_pausing
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from pause_megatron.log import read_json_lines
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.shard_spans import spans_of
from pause_megatron.preprocess.token_blocks import read_blocks
from pause_megatron.records.conversion import ExportRecord
from pause_megatron.records.evaluation import EvaluationRecord
from pause_megatron.records.files import read_record
from pause_megatron.training.pretrain import pretrain
from tests.chain import SEQ_LENGTH, verified, write_dataset, write_text_and_tokenizer
from tests.distributed import run_distributed
from tests.training.test_pretrain import DEEPSPEED

HELD_OUT = {
    "every": {"pauses": "every", "pauses_per_token": 3},
    "every-third": {"pauses": "every", "pause_interval": 3},
    "sequence": {},
    "drop": {"trimmed": "drop"},
    "document": {"pauses": "document"},
    "none": {"pauses": "none"},
}
SEQUENCES = 7
"""Validated, and evaluated by --limit; not a multiple of the batch sizes."""
RUNS = {
    "gpt2": ({}, {}),
    "gpt2-distinct": ({}, {}),
    "llama": ({}, {"pause_inputs": "repeat"}),
    "gpt2-shared": ({"pause_positions": "shared"}, {}),
    "llama-shared": ({"pause_positions": "shared"}, {"filler": "a the"}),
}
"""Name of a run to settings of its model and of training: both architectures, inputs and kinds of positions. The run
"gpt2-distinct" has a tokenizer with two distinct pauses."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Folder with texts, a tokenizer and datasets; with distinct pauses or without."""
    folders: dict[bool, Path] = {}

    def folder_of(distinct: bool) -> Path:
        if distinct not in folders:
            folder = folders[distinct] = tmp_path_factory.mktemp("distinct" if distinct else "text")
            write_text_and_tokenizer(folder, distinct_pauses=2 if distinct else 1)
            for name, settings in HELD_OUT.items():
                write_dataset(folder, f"held-out-{name}", "validation", **settings)
            write_dataset(folder, "standard", pauses="none")
            write_dataset(folder, "every", **HELD_OUT["every"])
        return folders[distinct]

    return folder_of


def exported(text: Path, name: str) -> Path:
    """Pretrain a standard model, continue with pauses after every token, and export."""
    of_model, settings = RUNS[name]
    model = ModelConfig(
        architecture=name.partition("-")[0],
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        init_method_std=0.1,
        max_position_embeddings=SEQ_LENGTH,
    )
    training = TrainingConfig(train_iters=2, global_batch_size=4, micro_batch_size=2, validation_sequences=SEQUENCES)
    standard = PretrainConfig(
        data=(str(text / "standard"),),
        tokenizer=text / "tokenizer",
        deepspeed=DEEPSPEED,
        model=model,
        output=text / f"{name}-standard",
        training=training,
        optimizer=OptimizerConfig(learning_rate=3e-3),
    )
    continued = replace(
        standard,
        data=(str(text / "every"),),
        validation_data=tuple(str(text / f"held-out-{held_out}") for held_out in HELD_OUT),
        initial_checkpoint=standard.output,
        output=text / name,
        model=replace(model, **of_model),
        training=replace(training, train_iters=3, **settings),
        logging=LoggingConfig(log_interval=1),
    )
    run_distributed(pretrain, 1, standard)
    run_distributed(pretrain, 1, continued)
    convert_to_hf(ConvertToHfConfig(checkpoint=continued.output, output=text / f"{name}-hf"))
    return text / f"{name}-hf"


@pytest.fixture(scope="module", params=RUNS)
def export(request: pytest.FixtureRequest, text: Callable[[bool], Path]) -> Path:
    return exported(text(request.param == "gpt2-distinct"), request.param)


def evaluated(output: Path, **settings) -> EvaluationRecord:
    evaluate(EvaluateConfig(task="text", output=output, **settings))
    return read_record(output, EvaluationRecord)


def test_loss_on_a_dataset_is_the_trainers_validation_loss(export, tmp_path):
    text = export.parent
    lines = read_json_lines(export.with_name(export.name.removesuffix("-hf")) / "metrics.jsonl")
    trained = {line["dataset"]: line for line in lines if line["kind"] == "validation"}
    for name in HELD_OUT:
        data = text / f"held-out-{name}"
        found = evaluated(tmp_path / f"{name}.json", model=export, data=data, limit=SEQUENCES, batch_size=3)
        assert found.primary.value == pytest.approx(trained[data.name]["loss"], abs=1e-5), name
        assert found.metrics["perplexity"].value == pytest.approx(math.exp(found.primary.value))
        assert found.prompt_tokens * found.num_samples == trained[data.name]["real_tokens"]
        assert 0 < found.primary.stderr < found.primary.value
    every = read_record(tmp_path / "every-third.json", EvaluationRecord)
    assert (every.pause_placement, every.num_pauses_inf, every.pause_interval) == ("every", 1, 3)
    assert read_record(tmp_path / "sequence.json", EvaluationRecord).num_pauses_inf == 0


def test_an_export_pauses_as_it_was_pretrained(export, tmp_path, capsys):
    record, folder = read_record(export / ExportRecord.FILE, ExportRecord), load_model_folder(export)
    assert (record.pretraining.pauses_per_token, record.pretraining.pause_interval) == (3, 1)
    assert (record.pretraining.pause_positions == "shared") == folder.shares_positions == ("shared" in export.name)
    assert record.pretraining.distinct_pauses == (2 if "distinct" in export.name else None)
    repeats = record.pretraining.pause_inputs == "repeat"
    own = Pausing(num_pauses=3, placement="every", interval=1, repeats_tokens=repeats)
    assert record.pretraining.filler == ("a the" if export.name == "llama-shared-hf" else None)
    if record.pretraining.filler:
        ids = tuple(folder.encode("a the", begins=False))
        assert len(ids) > 1
        own = replace(own, filler="a the", filler_ids=ids)
        assert "the model read the text 'a the' instead" in (export / "README.md").read_text()
    assert resolve_pausing(folder, InferencePausing()) == own
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "a class is a kind of object. " * 9}) + "\n" * 2)
    flags = ["--model", str(export), "--task", "text", "--data", str(tmp_path), "--output"]
    assert main(["evaluate", *flags, str(tmp_path / "own.json")]) == EXIT_DONE
    assert main(["evaluate", *flags, str(tmp_path / "none.json"), "--num-pauses-inf", "0"]) == EXIT_DONE
    own, none = (read_record(tmp_path / f"{name}.json", EvaluationRecord) for name in ("own", "none"))
    assert (own.num_pauses_inf, own.pause_placement, none.num_pauses_inf) == (3, "every", 0)
    assert own.primary.value != pytest.approx(none.primary.value, abs=1e-3)
    assert own.primary_metric == "loss"
    [line] = (tmp_path / "test.jsonl").read_text().split("\n")[:1]
    size = len(json.loads(line)["text"].encode())
    total = own.primary.value * own.prompt_tokens / math.log(2)
    assert own.metrics["bits_per_byte"].value == pytest.approx(total / size)
    assert main(["evaluate", *flags, str(tmp_path / "x.json"), "--pause-placement", "append"]) == EXIT_USER
    assert "give --num-pauses-inf too" in capsys.readouterr().err


def test_datasets_that_do_not_fit_the_model_are_refused(export, tmp_path):
    text = export.parent
    data, output = text / "held-out-every", tmp_path / "refused.json"
    with pytest.raises(UserError, match="held-out-every: contains its pauses; remove --num-pauses-inf and"):
        evaluated(output, model=export, data=data, pausing=InferencePausing(num_pauses_inf=3))
    long = write_dataset(text, "long", "validation", seq_length=2 * SEQ_LENGTH)
    with pytest.raises(UserError, match=f"has sequences of {2 * SEQ_LENGTH} .*, but .* has {SEQ_LENGTH} positions"):
        evaluated(output, model=export, data=long)
    long = write_dataset(text, "long-every", "validation", seq_length=2 * SEQ_LENGTH, pauses="every")
    if load_model_folder(export).shares_positions:  # it has as many real tokens as the model has positions
        assert math.isfinite(evaluated(output, model=export, data=long, limit=2).primary.value)
    else:
        with pytest.raises(UserError, match=f"has sequences of {2 * SEQ_LENGTH} tokens"):
            evaluated(output, model=export, data=long)
    with pytest.raises(UserError, match="--task text: has no prompts to finetune on"):
        FinetuneConfig(model=export, task="text", output=output)


def test_distinct_pauses_reach_every_stage(export, tmp_path):
    """Three pauses follow each token, of which two are distinct: <pause1> <pause2> <pause2>."""
    folder = load_model_folder(export)
    first, *others = folder.pause_ids
    vocabulary = folder.tokenizer.get_vocab()
    if not others:
        assert first == vocabulary["<pause>"]
        return
    [second] = others
    assert (first, second) == (vocabulary["<pause1>"], vocabulary["<pause2>"])
    manifest = load_dataset_manifest(export.parent / "every")
    assert (manifest.pause_ids, manifest.distinct_pauses) == (range(first, second + 1), 2)
    for name in ("every", "held-out-sequence", "held-out-document"):
        assert verified(export.parent / name).pauses > 0
    [tokens, *_] = (
        block.tokens for span in spans_of(export.parent / "every", manifest) for block in read_blocks(span, manifest)
    )
    groups = tokens.reshape(-1, 4)
    assert set(map(tuple, groups[:, 1:].tolist())) == {(first, second, second)}
    assert folder.model.generation_config.suppress_tokens == [first, second]
    card = (export / "README.md").read_text()
    assert f"`<pause1>` to `<pause2>` are tokens {first} to {second} of" in card
    lines = read_json_lines(export.with_name("gpt2-distinct") / "metrics.jsonl")
    record = next(line for line in reversed(lines) if line["kind"] == "train")
    assert set(record["pause_embeddings"]) == {"<pause1>", "<pause2>"}
    assert record["pause_embedding"] == record["pause_embeddings"]["<pause1>"] != record["pause_embeddings"]["<pause2>"]

    pausing = resolve_pausing(folder, InferencePausing())
    ids = folder.encode("a class")
    read = [id for token in ids for id in (token, first, second, second)]
    assert pausing.prefix(folder, "a class", ids, 60).tolist() == read
    prefix = Pausing(num_pauses=3).prefix(folder, "a class", ids, 60)
    assert prefix.tolist() == [*ids, first, second, second]
    interleaving = pausing.interleaving(folder)
    settings = {"bidirectional": False, "interleaving": interleaving, "max_new_tokens": 5, "do_sample": False}
    for context in (ids, ids[:1]):
        text = list(context)
        [found] = generate_after(folder, [interleaving.insert(context)], **settings)
        while len(text) < len(context) + 5 and text[-1] != folder.eod_id:
            row = [id for token in text for id in (token, first, second, second)]
            with torch.no_grad():
                logits = folder.model(torch.tensor([row])).logits[0, -1]
            logits[[first, second]] = -torch.inf
            text.append(int(logits.argmax()))
        assert found == [token for token in text[len(context) :] if token != folder.eod_id]
    tuned = tmp_path / "tuned"
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"question": "01:", "answer": "1"}) + "\n")
    settings = {"task": "parity", "data": tmp_path, "steps": 1, "batch_size": 1, "warmup_steps": 0}
    finetune(FinetuneConfig(model=export, output=tuned, **settings))
    tuned_folder = load_model_folder(tuned)
    assert tuned_folder.pause_ids == (first, second)
    assert resolve_pausing(tuned_folder, InferencePausing()) == pausing
    assert tuned_folder.model.generation_config.suppress_tokens == [first, second]
