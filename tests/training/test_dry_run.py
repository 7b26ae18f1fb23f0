"""`pause-megatron pretrain --dry-run` says what a run would be, where its data is and where it is not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pause_megatron.config.model import ModelConfig
from pause_megatron.config.parallel import ParallelConfig
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.config.training import LoggingConfig, TrainingConfig
from pause_megatron.costs.failures import Failures
from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.training.dry_run import find_hardware, print_plan
from tests.chain import SEQ_LENGTH, write_dataset, write_text_and_tokenizer

DEEPSPEED = Path(__file__).parents[2] / "ds_configs" / "zero1_bf16.json"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A small run on two pipeline stages, and a dataset for it."""
    folder = tmp_path_factory.mktemp("dry-run")
    write_text_and_tokenizer(folder)
    return PretrainConfig(
        data=(str(write_dataset(folder, "pause")),),
        tokenizer=folder / "tokenizer",
        deepspeed=DEEPSPEED,
        output=folder / "run",
        model=ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, max_position_embeddings=SEQ_LENGTH),
        parallel=ParallelConfig(pipeline_model_parallel_size=2),
        training=TrainingConfig(train_iters=100, global_batch_size=8, micro_batch_size=2),
        num_gpus=(2, 3, 4),
        dry_run=True,
    )


def printed(config: PretrainConfig, capsys: pytest.CaptureFixture[str], num_processes: int = 1) -> str:
    print_plan(config, num_processes=num_processes)
    return capsys.readouterr().out


def test_every_number_of_gpus_is_answered_and_nothing_is_made(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(config, capsys)
    assert "3  no: 3 processes cannot be divided" in text
    assert "4              2             2           33.3%" in text
    assert not config.output.exists()


def test_epochs_and_pauses_are_counted_from_the_data(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(config, capsys)
    manifest = load_dataset_manifest(Path(config.data[0]))
    pauses = 800 * SEQ_LENGTH * manifest.pauses / manifest.tokens
    assert f"{manifest.sequences:,} sequences of {SEQ_LENGTH} tokens" in text
    assert f"{800 / manifest.sequences:.2f} epochs" in text
    assert f"about {pauses:,.0f} tokens of the run are pauses" in text


def test_a_blend_is_read_by_its_weights(config: PretrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    [folder] = config.data
    text = printed(replace(config, data=("3", folder, "1", folder)), capsys)
    sequences = load_dataset_manifest(Path(folder)).sequences
    assert [f"{share * 800 / sequences:.2f} epochs" in text for share in (0.75, 0.25)] == [True, True]


def test_a_ramp_up_has_fewer_tokens(config: PretrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    training = TrainingConfig(train_iters=100, global_batch_size=8, micro_batch_size=2, rampup_batch_size=(4, 4, 40))
    text = printed(replace(config, training=training), capsys)
    assert f"{760 * SEQ_LENGTH:,} tokens, in 100 steps of 8 x {SEQ_LENGTH} = 512, after a ramp-up from 4" in text


def test_data_may_be_elsewhere_and_everything_else_is_checked(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    elsewhere = replace(config, data=("0.5", "on-the-cluster/pause", "0.5", config.data[0]))
    text = printed(elsewhere, capsys)
    assert "on-the-cluster/pause is not on this machine; not checked" in text
    assert f"assumed: sequences of {SEQ_LENGTH} tokens" in text
    with pytest.raises(UserError, match=r"dataset\.json"):
        print_plan(replace(config, data=(str(tmp_path),)), num_processes=1)
    with pytest.raises(UserError, match="--deepspeed"):
        print_plan(replace(elsewhere, deepspeed=tmp_path / "missing.json"), num_processes=1)


def test_a_fresh_checkout_needs_neither_tokenizer_nor_data(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fresh = replace(config, tokenizer=tmp_path / "none", data=("nowhere",), vocab_size=1000)
    text = printed(fresh, capsys)
    assert "vocabulary 1,000 (computed as 1,024)" in text
    assert f"{tmp_path / 'none'} is not on this machine; 1,000 tokens assumed," in text
    assert "nowhere is not on this machine; not checked" in text
    assert not list(tmp_path.iterdir())
    here = printed(replace(fresh, data=config.data), capsys)
    assert "no data compared with them" in here
    assert f"{config.data[0]} is not on this machine" not in here
    assert f"data        assumed: sequences of {SEQ_LENGTH} tokens" in here


def test_checkpoints_and_failures_are_planned_for_each_number_of_gpus(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"assumed_gpu_mtbf": 2.0, "assumed_save_seconds": 3.0, "assumed_restart_seconds": 50.0}
    text = printed(replace(config, **flags, logging=LoggingConfig(peak_tflops=1e-6)), capsys)
    parameters = config.model.num_parameters(PauseTokenizer.load(config.tokenizer).vocab_size)
    assert f"checkpoints of {12 * parameters / 1e9:,.3g} GB, 2 kept: {24 * parameters / 1e9:,.3g} GB" in text
    assert "one in 2 hours of a GPU; a save holds up the run for 3 s, a restart takes 50 s" in text
    rows = [line.split() for line in text.partition("best --save-interval")[2].splitlines()[1:3]]
    assert [row[:2] for row in rows] == [["2", "1"], ["4", "0.5"]]
    days = [
        float(line.split()[5]) for line in text.partition("disk")[0].splitlines() if re.match(r" +[24] +[12] +\d", line)
    ]
    for number, row, duration in zip((2, 4), rows, days, strict=True):
        failures = Failures(mean_time_between=7200 / number, save=3.0, restart=50.0)
        step = duration * 86400 / 100
        best = max(1, min(100, round(failures.best_interval / step)))
        assert float(row[2]) == pytest.approx(best, rel=0.02)
        assert float(row[4].rstrip("%")) == pytest.approx(100 * failures.useful_share(best * step), abs=0.5)


def test_a_layout_that_no_number_of_gpus_can_have_is_refused_after_the_plan(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="cannot be divided"):
        print_plan(replace(config, num_gpus=(3, 5)), num_processes=1)
    assert "5  no: 5 processes cannot be divided" in capsys.readouterr().out


def test_without_num_gpus_the_processes_that_were_started_are_planned_for(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "6              3" in printed(
        replace(config, num_gpus=(), training=replace(config.training, global_batch_size=12)), capsys, num_processes=6
    )


@pytest.mark.parametrize("flags", [{"num_gpus": (8, 0)}, {"assumed_mfu": 0.0}, {"assumed_mfu": 40.0}])
def test_flags_of_the_plan_itself_are_checked(config: PretrainConfig, flags: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"--num-gpus 0: must be at least 1|--assumed-mfu .*: must be above 0"):
        replace(config, **flags)


def test_only_rank_0_speaks(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert printed(config, capsys) == ""


def test_a_given_peak_goes_before_the_datasheets() -> None:
    assert find_hardware("bf16", 700.0).peak_tflops == 700.0
    assert find_hardware("bf16", 0.0).peak_tflops != 700.0


def test_plan_as_json_has_the_printed_numbers(config: PretrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(config, capsys)
    plan = json.loads(printed(replace(config, json=True), capsys))
    assert f"{plan['parameters']:,} parameters; vocabulary {plan['vocab_size']:,}" in text
    two, three, four = plan["scales"]
    assert (two["num_gpus"], three["num_gpus"], four["data_parallel_size"]) == (2, 3, 2)
    assert "3 processes cannot be divided" in three["error"]
    total = next(line for line in text.splitlines() if line.strip().startswith("total"))
    assert [f"{scale['memory']['total'] / 2**30:,.2f}" for scale in (two, four)] == total.split()[1:]
    assert f"{four['pipeline_bubble']:.1%}" == "33.3%"
    assert f"{four['tokens_per_second']:,.0f}" in text
    assert plan["tokens"] == 800 * SEQ_LENGTH
    assert (plan["tokenizer_found"], plan["absent_data"]) == (True, [])
    absent = json.loads(printed(replace(config, json=True, data=("nowhere",), tokenizer=Path("none")), capsys))
    assert (absent["tokenizer_found"], absent["absent_data"]) == (False, ["nowhere"])
    assert absent["vocab_size"] == config.vocab_size
    with pytest.raises(UserError, match="--json: requires --dry-run"):
        replace(config, json=True, dry_run=False)
