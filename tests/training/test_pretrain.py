"""`pause-megatron pretrain` end to end: trains, resumes, and refuses unsupported settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch.distributed as dist

from pause_megatron.atomic import write_json
from pause_megatron.checkpoint.checkpoint_folders import CHECKPOINTS, checkpoint_name, latest_checkpoint
from pause_megatron.checkpoint.checkpoint_manifest import MANIFEST, read_manifest
from pause_megatron.config.deepspeed import read_deepspeed_file
from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import CheckpointConfig, LoggingConfig, OptimizerConfig, TrainingConfig
from pause_megatron.errors import EXIT_USER, StoppedEarly, UserError
from pause_megatron.log import read_json_lines
from pause_megatron.records.checkpoint_state import CheckpointState
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.pretrain import pretrain
from pause_megatron.training.run import PretrainRun
from pause_megatron.training.state import model_differences
from pause_megatron.training.step_report import Flags
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer
from tests.distributed import run_distributed
from tests.quick import others_slow

DEEPSPEED = Path(__file__).parents[2] / "ds_configs" / "zero1_fp32.json"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A small run on two pipeline stages."""
    folder = tmp_path_factory.mktemp("pretrain")
    write_text_and_tokenizer(folder)
    return PretrainConfig(
        data=(str(write_dataset(folder, "pause")),),
        validation_data=(
            str(write_dataset(folder, "held-out-standard", "validation", pauses="none")),
            str(write_dataset(folder, "held-out-pause", "validation")),
        ),
        tokenizer=folder / "tokenizer",
        deepspeed=DEEPSPEED,
        output=folder / "run",
        model=ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=SEQ_LENGTH),
        parallel=ParallelConfig(pipeline_model_parallel_size=2),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(
            train_iters=8, global_batch_size=8, micro_batch_size=2, validation_interval=4, validation_sequences=20
        ),
        checkpoint=CheckpointConfig(save_interval=4),
        logging=LoggingConfig(log_interval=1),
    )


def interrupted_pretrain(config: PretrainConfig) -> None:
    """Train until a signal reaches the last process during iteration 4."""
    step = PretrainRun._step

    def step_and_signal(run: PretrainRun) -> Flags:
        flags = step(run)
        if run.iteration == 4 and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return flags

    PretrainRun._step = step_and_signal  # type: ignore[method-assign]
    with pytest.raises(StoppedEarly, match=r"stopped by SIGTERM after iteration 4; .* resumes from .*iter_0000004"):
        pretrain(config)


def losses(run: Path) -> dict[tuple[str, int], float]:
    """Kind (and dataset) and iteration to loss, as the run logged them last."""
    records = read_json_lines(run / "metrics.jsonl")
    return {
        (record["kind"] + record.get("dataset", ""), record["iteration"]): record["loss"]
        for record in records
        if "loss" in record
    }


@pytest.fixture(scope="module")
def undisturbed_run(config: PretrainConfig) -> PretrainConfig:
    """The run, done."""
    run_distributed(pretrain, 2, config)
    return config


def test_interrupted_run_ends_as_the_uninterrupted_one(config: PretrainConfig, undisturbed_run: PretrainConfig) -> None:
    undisturbed = losses(undisturbed_run.output)
    assert len(undisturbed) == 8 + 2 * 2
    assert undisturbed["train", 8] < undisturbed["train", 1]

    again = replace(config, output=config.output.with_name("interrupted"))
    run_distributed(interrupted_pretrain, 2, again)
    assert max(iteration for _, iteration in losses(again.output)) == 4
    run_distributed(pretrain, 2, again)
    assert losses(again.output) == undisturbed

    one_process = replace(config, output=config.output.with_name("resharded"), parallel=ParallelConfig())
    run_distributed(interrupted_pretrain, 2, replace(one_process, parallel=config.parallel))
    run_distributed(pretrain, 1, one_process)
    assert losses(one_process.output) == pytest.approx(undisturbed, abs=1e-5)


def test_a_run_starts_with_the_weights_of_another(config: PretrainConfig, undisturbed_run: PretrainConfig) -> None:
    initial = shutil.copytree(newest(undisturbed_run.output), config.output.with_name("initial"))
    manifest = read_manifest(initial)
    tokens = {"bos_id": 1, "stop_ids": [1, 3]}  # as of a model that was imported before
    manifest.state["generation"] = tokens
    write_json(initial / MANIFEST, manifest.to_plain())
    begun = replace(
        config,
        initial_checkpoint=initial,
        output=config.output.with_name("begun"),
        parallel=ParallelConfig(),
        training=replace(config.training, train_iters=2),
    )
    run_distributed(pretrain, 2, begun)
    found, before = losses(begun.output), losses(undisturbed_run.output)
    assert found["train", 1] == pytest.approx(before["train", 8], abs=0.2)
    assert found["train", 1] < before["train", 1] - 0.2, "the first batch is better known now"
    shutil.rmtree(initial)
    longer = replace(begun, initial_checkpoint=None, training=replace(begun.training, train_iters=3))
    run_distributed(pretrain, 1, longer)
    assert set(losses(begun.output)) > set(found), "it resumes from its own checkpoint"
    assert read_manifest(newest(begun.output)).state["generation"] == tokens


def newest(run: Path) -> Path:
    checkpoint = latest_checkpoint(run)
    assert checkpoint
    return checkpoint


def test_weights_of_another_model_are_refused(config: PretrainConfig, undisturbed_run: PretrainConfig) -> None:
    model = replace(config.model, num_layers=4)
    output = config.output.with_name("other-model")
    wrong = replace(config, model=model, initial_checkpoint=undisturbed_run.output, output=output)
    with pytest.raises(AssertionError, match="has --num-layers 2, but 4 is given; give 2"):
        run_distributed(pretrain, 2, wrong)
    state = CheckpointState.read(read_manifest(newest(undisturbed_run.output)).state, output)
    tokenizer = PauseTokenizer.load(config.tokenizer)
    named = replace(config.model, num_query_groups=config.model.query_groups, ffn_hidden_size=config.model.ffn_size)
    assert all(there == here for _, there, here in model_differences(state, named, tokenizer)), "0 is the default size"
    wider = replace(named, ffn_hidden_size=2 * named.ffn_size)
    [found] = [one for one in model_differences(state, wider, tokenizer) if one[1] != one[2]]
    assert found == ("--ffn-hidden-size", named.ffn_size, wider.ffn_hidden_size)
    missing = replace(config, initial_checkpoint=output / "nowhere", output=output)
    with pytest.raises(AssertionError, match=r"--initial-checkpoint .*nowhere: no such folder"):
        run_distributed(pretrain, 2, missing)
    assert not output.exists()


@pytest.fixture(scope="module")
def blend(config: PretrainConfig) -> PretrainConfig:
    """The same run on packed documents and standard text, with weights, data-parallel."""
    folder = config.output.parent
    documents = str(write_dataset(folder, "documents", pauses="document"))
    standard = str(write_dataset(folder, "standard", pauses="none"))
    held_out = str(write_dataset(folder, "held-out-documents", "validation", pauses="document"))
    return replace(
        config,
        data=("0.7", documents, "0.3", standard),
        validation_data=("1", held_out, "3", config.validation_data[0]),
        data_cache=folder / "cache",
        parallel=ParallelConfig(),
        output=folder / "blend",
    )


def test_blend_of_documents_and_sequences_continues_under_another_layout(blend: PretrainConfig) -> None:
    run_distributed(pretrain, 2, blend)
    undisturbed = losses(blend.output)
    assert undisturbed["train", 8] < undisturbed["train", 1]
    documents, standard = (undisturbed[f"validationheld-out-{kind}", 8] for kind in ("documents", "standard"))
    assert undisturbed["validationweighted mean", 8] == pytest.approx((documents + 3 * standard) / 4)

    again = replace(blend, output=blend.output.with_name("blend-interrupted"))
    run_distributed(interrupted_pretrain, 2, again)
    run_distributed(pretrain, 1, again)
    assert losses(again.output) == pytest.approx(undisturbed, abs=1e-5)
    record = json.loads((again.output / "run.json").read_text())["dataset"]
    assert (record["strategy"], record["seq_length"]) == ("document+none", SEQ_LENGTH)
    assert [folder["weight"] for folder in record["folders"]] == [0.7, 0.3]
    assert not (again.output / "data-index").exists()  # --data-cache was given


def test_index_lies_in_the_run_folder_where_no_cache_is_named(blend: PretrainConfig) -> None:
    documents_alone = replace(
        blend,
        data=(blend.data[1],),
        validation_data=(),
        data_cache=None,
        output=blend.output.with_name("only-documents"),
        training=replace(blend.training, train_iters=1, seq_length=SEQ_LENGTH // 2),
    )
    run_distributed(pretrain, 1, documents_alone)
    assert len(list((documents_alone.output / "data-index").iterdir())) == 1
    last = read_json_lines(documents_alone.output / "metrics.jsonl")[0]
    assert last["real_tokens"] + last["pause_tokens"] == 8 * SEQ_LENGTH // 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((0, 1), "--data .number of folders. 2, but 1"),
        ((2, 1, 0, 3), r"--data documents .weight. 0\.7, but 0\.3"),
        ((0, 3, 2, 1), "--data standard .strategy. document, but none"),
    ],
)
def test_resuming_with_other_data_is_refused(blend: PretrainConfig, data: tuple[int, ...], message: str) -> None:
    output = blend.output.with_name("blend-once")
    if not output.exists():
        run_distributed(pretrain, 1, replace(blend, output=output, training=replace(blend.training, train_iters=1)))
    changed = replace(blend, output=output, data=tuple(blend.data[index] for index in data))
    with pytest.raises(AssertionError, match=message):
        run_distributed(pretrain, 1, changed)


FILES = sorted(file.name for file in DEEPSPEED.parent.glob("*.json"))
QUICK_FILES = ("zero1_bf16.json", "zero1_fp16.json", "zero2_bf16_offload.json", "zero3_bf16.json")


@pytest.mark.parametrize("name", others_slow(FILES, QUICK_FILES))
def test_every_deepspeed_file_of_the_repository_trains(
    config: PretrainConfig, undisturbed_run: PretrainConfig, name: str
) -> None:
    output = config.output.with_name(name.removesuffix(".json"))
    file = DEEPSPEED.with_name(name)
    stages = 2 if read_deepspeed_file(file).zero_stage < 2 else 1
    parallel = ParallelConfig(pipeline_model_parallel_size=stages)
    run_distributed(pretrain, 2, replace(config, output=output, deepspeed=file, parallel=parallel))
    found = losses(output)
    assert found["train", 8] < found["train", 1] - 0.05
    assert found["train", 8] == pytest.approx(losses(undisturbed_run.output)["train", 8], abs=0.01)


def test_run_records_what_it_was(config: PretrainConfig) -> None:
    output = config.output.with_name("record")
    one_step = replace(config.training, train_iters=1)
    run_distributed(pretrain, 2, replace(config, output=output, training=one_step))
    record = json.loads((output / "run.json").read_text())
    assert record["config"]["parallel"]["pipeline_model_parallel_size"] == 2
    assert record["dataset"]["strategy"] == "sequence"
    assert record["versions"]["megatron-core"]
    devices = record["devices"]
    assert [(name.startswith("CPU ("), ranks) for name, ranks in devices["devices"].items()] == [(True, 2)]
    assert devices["attention"] in ("flash", "math")
    state = json.loads((output / CHECKPOINTS / checkpoint_name(1) / MANIFEST).read_text())["state"]
    assert state["devices"] == devices
    last = read_json_lines(output / "metrics.jsonl")[0]
    assert last["real_tokens"] + last["pause_tokens"] == 8 * SEQ_LENGTH
    assert 0.05 < last["pause_tokens"] / (8 * SEQ_LENGTH) < 0.15


def test_a_run_that_repeats_tokens_never_reads_a_pause(config: PretrainConfig) -> None:
    """The embedding of <pause> gets no gradient, although the data has pauses."""
    shares = {}
    # With distinct gaps no sequence starts with a pause, which would have no token to repeat
    config = replace(config, data=(str(write_dataset(config.tokenizer.parent, "distinct", gaps="distinct")),))
    for inputs in ("pause", "repeat"):
        output = config.output.with_name(f"reads-{inputs}")
        training = replace(config.training, train_iters=1, pause_inputs=inputs)
        run_distributed(pretrain, 2, replace(config, output=output, training=training))
        record = read_json_lines(output / "metrics.jsonl")[0]
        assert record["pause_tokens"] > 0
        shares[inputs] = record["pause_embedding"]["gradient_share"]
    assert shares["pause"] > 0
    assert shares["repeat"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "trained with --seed 1234, but 5"),
        ({"global_batch_size": 4}, "trained with --global-batch-size 8, but 4"),
        ({"pause_inputs": "repeat"}, "trained with --pause-inputs pause, but repeat"),
        ({"filler": "..."}, r"trained with --filler None, but \.\.\."),
    ],
)
def test_resuming_another_run_is_refused(config: PretrainConfig, changes: dict[str, Any], message: str) -> None:
    output = config.output.with_name("another")
    if not output.exists():
        run_distributed(pretrain, 2, replace(config, output=output, training=replace(config.training, train_iters=1)))
    changed = replace(config, output=output, training=replace(config.training, **changes))
    with pytest.raises(AssertionError, match=message):
        run_distributed(pretrain, 2, changed)


def tokenizer_without_pause(folder: Path) -> Path:
    """A plain SentencePiece model."""
    texts = [f"the quick brown fox number {number} jumps over the lazy dog" for number in range(100)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "plain"), vocab_size=50, minloglevel=2
    )
    return folder / "plain.model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config, folder: {"data": (str(folder / "nowhere"),)}, "nowhere"),
        (lambda config, folder: {"data": (str(config.tokenizer),)}, "no dataset"),
        (lambda config, folder: {"tokenizer": folder / "none.model"}, r"none\.model"),
        (lambda config, folder: {"tokenizer": tokenizer_without_pause(folder)}, "<pause>"),
        (lambda config, folder: {"deepspeed": folder / "none.json"}, "--deepspeed .*no such file"),
        (lambda config, folder: {"parallel": ParallelConfig(tensor_model_parallel_size=3)}, "start a multiple of 3"),
        (
            lambda config, folder: {"model": replace(config.model, max_position_embeddings=32)},
            "longer than --max-position-embeddings 32",
        ),
        (
            lambda config, folder: {
                "training": replace(config.training, global_batch_size=7),
                "parallel": ParallelConfig(),
            },
            "--global-batch-size 7 is not a multiple",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    config: PretrainConfig, change: Any, message: str, tmp_path: Path
) -> None:
    bad = replace(config, output=tmp_path / "run", **change(config, tmp_path))
    with pytest.raises(UserError, match=message):
        pretrain(bad)
    assert not bad.output.exists()


def test_local_ranks_report_an_error_once_and_exit_with_2(config: PretrainConfig, tmp_path: Path) -> None:
    flags = ["--data", *config.data, "--tokenizer", config.tokenizer, "--deepspeed", DEEPSPEED, "--train-iters", 1]
    flags += ["--output", tmp_path / "run", "--processes", 2, "--tensor-model-parallel-size", 3, "--preset", "tiny"]
    done = subprocess.run(
        [sys.executable, "-m", "pause_megatron", "pretrain", *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_USER
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert errors == [
        "error: 2 processes cannot be divided into --tensor-model-parallel-size 3 x --pipeline-model-parallel-size 1:"
        " start a multiple of 3 processes"
    ]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
