"""The complete chain from text to a report: killed, resumed, and its files opened with stock libraries."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pause_megatron.cli.flags import parse
from pause_megatron.config.experiments import DemoConfig
from pause_megatron.config.report import ReportConfig
from pause_megatron.config.reproductions import ReproduceConfig
from pause_megatron.errors import EXIT_DONE, EXIT_REQUEUE, EXIT_USER, StoppedEarly, UserError
from pause_megatron.experiments.demo import demo_stages, remember_settings
from pause_megatron.experiments.demo_commands import FAST, DemoSize
from pause_megatron.experiments.steps import Stage, Step, run_stages

MODELS = ("stdpt", "pausept")


def demo_command(output: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "pause_megatron", "demo", "--fast", "--output", str(output), *flags]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fast demo that was killed once while it pretrained."""
    output = tmp_path_factory.mktemp("demo") / "demo"
    killed = subprocess.Popen(demo_command(output), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(output / "pretrain" / "stdpt" / "checkpoints", "iter_*", killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (output / "report").exists()
    done = subprocess.run(demo_command(output), capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_DONE, done.stderr[-3000:]
    assert "done before" in done.stderr
    assert done.stdout.strip().endswith(str(output / "report" / "report.html"))
    return output


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not any(folder.glob(pattern)):
        assert process.poll() is None, f"ended before it wrote {folder / pattern}"
        assert time.monotonic() < deadline, f"{folder / pattern} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
def test_datasets_open_in_plain_megatron_and_are_twins(demo: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    folders = {kind: demo / "data" / f"train-{kind}" for kind in ("standard", "pause")}
    pause_id = json.loads((folders["pause"] / "dataset.json").read_text())["pause_id"]
    for file in folders["standard"].glob("*.bin"):
        streams = {}
        for kind, folder in folders.items():
            shard = IndexedDataset(str(folder / file.stem))
            assert {len(shard[index]) for index in range(len(shard))} == {64}
            streams[kind] = np.concatenate([shard[index] for index in range(len(shard))])
        assert pause_id not in streams["standard"]
        stripped = streams["pause"][streams["pause"] != pause_id]
        shorter = min(len(stripped), len(streams["standard"]))
        assert shorter > 0.9 * len(streams["standard"])
        assert np.array_equal(stripped[:shorter], streams["standard"][:shorter])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exports_load_with_stock_transformers_and_are_proven(demo: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = demo / "hf" / name
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pause_id = tokenizer.convert_tokens_to_ids("<pause>")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.config.vocab_size == len(tokenizer) == 512
    assert model.generation_config.suppress_tokens == [pause_id]
    report = json.loads((folder / "conversion_report.json").read_text())
    verdict = report["verdict"]
    assert verdict["passed"]
    assert verdict["max_abs_logit_difference"] <= 1e-4
    assert verdict["pauses"] > 0
    assert report["tokenizer"]["texts_compared"] > 50


@pytest.mark.slow
def test_pretraining_used_its_configuration(demo: Path) -> None:
    pauses = {}
    for name in MODELS:
        report = json.loads((demo / "hf" / name / "conversion_report.json").read_text())
        config = report["source"]["config"]
        assert config["parallel"]["tensor_model_parallel_size"] == 2
        assert report["source"]["layout"] == "TP 2 · PP 1 · DP 1"
        pauses[name] = report["pretraining"]
    assert pauses["stdpt"]["pauses"] == "none"
    assert pauses["pausept"]["pauses"] == "sequence"
    assert pauses["stdpt"]["pause_tokens"] == 0
    assert pauses["pausept"]["pause_tokens"] > 0


@pytest.mark.slow
def test_four_variants_are_evaluated_and_reported(demo: Path) -> None:
    results = [json.loads(path.read_text()) for path in (demo / "grid" / "evaluate" / "parity").glob("*.json")]
    assert {(result["variant"], result["num_pauses_inf"]) for result in results} == {
        *(("stdpt_stdft", 0), ("stdpt_pauseft", 4), ("stdpt_pauseft", 0)),
        *(("pausept_stdft", 0), ("pausept_pauseft", 4), ("pausept_pauseft", 0)),
    }
    for result in results:
        assert result["num_samples"] == len(result["samples"]) == 20
    page = (demo / "report" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#|data:)', page), "the page refers to something outside itself"
    markdown = (demo / "report" / "report.md").read_text(encoding="utf-8")
    for picture in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (demo / "report" / picture).is_file()


@pytest.mark.slow
def test_report_has_no_errors_in_a_browser(demo: Path) -> None:
    pytest.importorskip("playwright", reason="the package playwright is not installed")
    from tests.report.browser import CHROMIUM, DESKTOP, PHONE, check_links, open_browser, open_page

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with open_browser() as browser:
        for width in (PHONE, DESKTOP):
            with open_page(browser, demo / "report" / "report.html", width) as page:
                inner, files = check_links(page)
                assert inner > 5
                assert files > 5
                assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_finished_demo_runs_no_command_and_keeps_its_settings(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*.safetensors")}
    again = subprocess.run(demo_command(demo), capture_output=True, text=True, check=False)
    assert again.returncode == EXIT_DONE
    assert "$" not in again.stderr  # no command was run
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*.safetensors")} == before
    other = subprocess.run(demo_command(demo, "--c4", "x"), capture_output=True, text=True, check=False)
    assert other.returncode == EXIT_USER
    assert "holds a demo with --c4 []" in other.stderr


def test_demo_does_not_write_into_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty and is not a demo folder"):
        remember_settings(DemoConfig(output=tmp_path))


@pytest.mark.parametrize("size", [DemoSize(), FAST], ids=["complete", "fast"])
def test_only_the_complete_demo_has_the_positive_control_and_reports_it(tmp_path: Path, size: DemoSize) -> None:
    steps = {step.name: step for stage in demo_stages(tmp_path, size, ()) for step in stage.steps}
    assert ("parity-hints" in steps) == (size is not FAST)
    report = steps["report"].action
    assert not callable(report)
    shown = [str(tmp_path / "parity-hints" / "reproduction.json")] if size is not FAST else []
    config = parse(ReportConfig, "report", list(report[3:]))
    assert [str(path) for path in config.reproductions] == shown
    assert config.evaluations == (tmp_path / "grid" / "evaluate",), "verdicts come from the demo's own task"
    if size is not FAST:
        action = steps["parity-hints"].action
        assert not callable(action)
        config = parse(ReproduceConfig, "reproduce", list(action[3:]))
        assert (config.experiment, config.seeds) == ("parity-hints", (0,))
        assert set(steps["parity-hints"].products) > {config.output / "reproduction.json"}


def test_damaged_settings_of_a_demo_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(UserError, match=r"demo\.json: not complete JSON"):
        remember_settings(DemoConfig(output=tmp_path))
    (tmp_path / "demo.json").write_text("[]")
    with pytest.raises(UserError, match="choose another --output, or remove the folder"):
        remember_settings(DemoConfig(output=tmp_path))


def test_error_of_a_failed_step_names_its_log_and_the_step_runs_again(tmp_path: Path) -> None:
    product, switch = tmp_path / "product", tmp_path / "switch"
    program = (
        "import pathlib, sys\n"
        f"pathlib.Path({str(product)!r}).touch() if pathlib.Path({str(switch)!r}).exists() else sys.exit(2)"
    )
    stage = Stage(title="a stage", steps=[Step(name="step", action=["-c", program], products=[product])])
    with pytest.raises(UserError, match=r"step failed \(exit code 2\); its log .*step\.log"):
        run_stages([stage], tmp_path, {})
    switch.touch()
    run_stages([stage], tmp_path, {})
    assert product.exists()


def test_step_that_was_asked_to_stop_has_not_failed(tmp_path: Path) -> None:
    step = Step(name="step", action=["-c", f"import sys; sys.exit({EXIT_REQUEUE})"], products=[tmp_path / "product"])
    with pytest.raises(StoppedEarly, match="step stopped on request and saved; the same command resumes it"):
        run_stages([Stage(title="a stage", steps=[step])], tmp_path, {})
