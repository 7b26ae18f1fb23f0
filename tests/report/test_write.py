"""Files of a report, and the command that writes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.cli.main import main
from pause_megatron.config.report import ReportConfig
from pause_megatron.errors import EXIT_DONE, EXIT_USER, UserError
from pause_megatron.records.evaluation import Metric
from pause_megatron.report.write import write_report

from .conftest import WrittenReport
from .inputs import evaluation, scored, variants, write_evaluations, write_run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_consists_of_page_markdown_json_and_figures(full_report: WrittenReport) -> None:
    values = json.loads(full_report.text("report.json"))
    assert sorted(values["files"]) == sorted(files(full_report.folder))
    assert {"report.html", "report.md", "report.json", "figures/variants-parity.png"} <= set(values["files"])
    assert values["format"] == "pause_megatron/report/2"
    assert len(values["evaluations"]) == 27 + 42
    assert [run["dataset"]["strategy"] for run in values["pretrain"].values()] == ["none", "sequence"]


def test_report_json_has_unrounded_numbers(full_report: WrittenReport) -> None:
    parity = json.loads(full_report.text("report.json"))["tasks"][1]
    assert (parity["task"], parity["metric"], parity["chance"]) == ("parity", "exact_match", 0.5)
    best = next(
        result
        for result in parity["results"]
        if result["variant"] == "pausept_pauseft" and result["num_pauses_inf"] == 10
    )
    values = [json.loads(path.read_text()) for path in full_report.config.evaluations if "pausept_pauseft" in str(path)]
    seeds = [
        value["metrics"]["exact_match"]["value"]
        for value in values
        if (value["task"], value["num_pauses_inf"]) == ("parity", 10)
    ]
    assert best["seeds"] == [1, 2, 3]
    assert best["mean"] == pytest.approx(sum(seeds) / 3, abs=1e-12)
    assert best["interval"][0] < best["mean"] < best["interval"][1]
    assert best["difference"] == pytest.approx(best["mean"] - parity["results"][0]["mean"])


def test_the_same_inputs_give_the_same_bytes(full_report: WrittenReport, tmp_path: Path) -> None:
    write_report(replace(full_report.config, output=tmp_path / "again"))
    assert files(tmp_path / "again") == files(full_report.folder)


def test_an_earlier_report_is_replaced_completely(tmp_path: Path) -> None:
    both = write_evaluations(tmp_path / "evaluate", variants())
    output = tmp_path / "report"
    write_report(ReportConfig(evaluations=tuple(both), output=output))
    (output / "notes.txt").write_text("mine")
    write_report(ReportConfig(evaluations=tuple(both[:4]), output=output, title="Second"))
    assert "<title>Second</title>" in (output / "report.html").read_text()
    assert not (output / "figures" / "variants-gsm8k.png").exists()
    assert (output / "figures" / "variants-parity.png").exists()
    assert (output / "notes.txt").read_text() == "mine"


def test_a_report_of_the_earlier_format_is_replaced(tmp_path: Path) -> None:
    (path,) = write_evaluations(tmp_path, [evaluation()])
    (output := tmp_path / "report").mkdir()
    (output / "report.json").write_text('{"format": "pause_megatron/report/1", "files": ["report.json", "report.md"]}')
    write_report(ReportConfig(evaluations=(path,), output=output))
    assert json.loads((output / "report.json").read_text())["format"] == "pause_megatron/report/2"


def test_a_folder_that_is_not_a_report_is_not_overwritten(tmp_path: Path) -> None:
    (path,) = write_evaluations(tmp_path, [evaluation()])
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "report.html").write_text("something else")
    file.write_text("x")
    for output in (folder, file):
        with pytest.raises(UserError, match="exists and is not a report"):
            write_report(ReportConfig(evaluations=(path,), output=output))
    assert files(folder) == {"report.html": b"something else"}
    (empty := tmp_path / "empty").mkdir()
    write_report(ReportConfig(evaluations=(path,), output=empty))
    assert (empty / "report.html").is_file()


@pytest.mark.parametrize("name", ["../victim", "figures/../../victim", "/victim", "notes.txt", "figures/a.png\n", 7])
def test_a_report_that_lists_other_files_removes_none(tmp_path: Path, name: object) -> None:
    (path,) = write_evaluations(tmp_path, [evaluation()])
    write_report(ReportConfig(evaluations=(path,), output=tmp_path / "report"))
    record = tmp_path / "report" / "report.json"
    values = json.loads(record.read_text())
    listed = str(tmp_path / "victim") if name == "/victim" else name
    record.write_text(json.dumps({**values, "files": [*values["files"], listed]}))
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"report.json lists .*, which is no file of a report; remove it"):
        write_report(ReportConfig(evaluations=(path,), output=tmp_path / "report"))
    assert files(tmp_path) == before


def test_figures_behind_a_link_are_not_removed(tmp_path: Path) -> None:
    (path,) = write_evaluations(tmp_path, [evaluation()])
    output, elsewhere = tmp_path / "report", tmp_path / "elsewhere"
    write_report(ReportConfig(evaluations=(path,), output=output))
    (output / "figures").rename(elsewhere)
    (output / "figures").symlink_to(elsewhere)
    before = files(tmp_path)
    with pytest.raises(UserError, match="figures is a link to another folder"):
        write_report(ReportConfig(evaluations=(path,), output=output))
    assert files(tmp_path) == before


def test_tasks_with_one_slug_have_their_own_figures_and_no_formulas(tmp_path: Path) -> None:
    names = ("=a b", "=a-b", "x" * 150)
    write_report(
        ReportConfig(evaluations=tuple(write_evaluations(tmp_path / "in", variants(names))), output=tmp_path / "out")
    )
    tables = {path.name: path.read_text() for path in (tmp_path / "out" / "figures").glob("variants-*.csv")}
    assert len(tables) == 3
    assert "'=a b," in tables["variants-a-b.csv"]
    assert "'=a-b," in tables["variants-a-b-2.csv"]
    ids = re.findall(r'\bid="([^"]+)"', (tmp_path / "out" / "report.html").read_text())
    assert len(ids) == len(set(ids))


def test_a_metric_that_is_not_the_mean_of_its_samples_is_a_caveat(tmp_path: Path) -> None:
    changed = [
        scored("stdpt_stdft", 0.4),
        replace(scored("pausept_stdft", 0.4), metrics={"em": Metric(value=0.9, stderr=0.02)}),
    ]
    paths = write_evaluations(tmp_path / "in", changed)
    write_report(ReportConfig(evaluations=tuple(paths), output=tmp_path / "out"))
    caveats = [text for text in json.loads((tmp_path / "out" / "report.json").read_text())["caveats"] if "mean" in text]
    assert len(caveats) == 1
    assert caveats[0].startswith("On squad, the em of 1 result is not the mean of its samples, so its differences")
    assert str(paths[1]) in caveats[0]


def test_a_bad_input_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        write_report(ReportConfig(evaluations=(tmp_path / "absent.json",), output=tmp_path / "report"))
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_only_pretraining_or_of_only_one_result_is_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", paused=True)
    write_report(ReportConfig(pretrain=(run,), output=tmp_path / "a"))
    page = (tmp_path / "a" / "report.html").read_text()
    assert 'id="pretraining"' in page
    assert 'id="variants"' not in page
    record = evaluation(variant=None, samples=(), pretraining=None, stderr=None, num_pauses_inf=0)
    write_report(ReportConfig(evaluations=tuple(write_evaluations(tmp_path, [record])), output=tmp_path / "b"))
    page = (tmp_path / "b" / "report.html").read_text()
    assert 'id="variants"' in page
    assert 'id="samples"' not in page
    assert "has 1.86M parameters; this report does not know how many tokens" in page


def test_a_run_without_validation_is_reported_by_its_training_loss(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if '"train"' in line))
    write_report(ReportConfig(pretrain=(run,), output=tmp_path / "report"))
    assert "Training loss on real targets: StdPT ends at" in (tmp_path / "report" / "report.md").read_text()


def test_the_command_writes_a_report_or_prints_one_line_of_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in write_evaluations(tmp_path / "evaluate", variants())]
    output = str(tmp_path / "report")
    assert main(["report", "--evaluations", *paths, "--output", output, "--title", "Mine"]) == EXIT_DONE
    assert (tmp_path / "report" / "report.html").is_file()
    capsys.readouterr()
    assert main(["report", "--evaluations", str(tmp_path / "absent.json"), "--output", output]) == EXIT_USER
    assert capsys.readouterr().err == f"error: {tmp_path / 'absent.json'}: No such file or directory\n"


def test_a_report_without_inputs_is_refused() -> None:
    with pytest.raises(UserError, match="--evaluations"):
        ReportConfig(output=Path("report"))
