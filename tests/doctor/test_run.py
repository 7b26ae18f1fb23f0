"""The doctor runs each check in its own process, prints a line for each, and records all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pause_megatron.config.doctor import DoctorConfig
from pause_megatron.doctor.check import Check, Place
from pause_megatron.doctor.run import run_doctor
from pause_megatron.doctor.table import CHECKS
from pause_megatron.errors import UserError
from pause_megatron.records.doctor import CheckRecord, DoctorRecord
from pause_megatron.records.files import read_record

EXAMPLES = "tests.doctor.example_checks:CHECKS"
GOOD = "tests.doctor.example_checks:GOOD"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckRecord]:
    file = tmp_path_factory.mktemp("doctor") / "doctor.json"
    with pytest.raises(UserError, match=r"^doctor: .*refused.* failed; the lines above name the fix, "):
        run_doctor(DoctorConfig(output=file), EXAMPLES)
    record = read_record(file, DoctorRecord)
    assert record.gpus == 0
    return {check.name: check for check in record.checks}


def test_figures_of_a_passed_check_are_recorded(outcomes: dict[str, CheckRecord]) -> None:
    passed = outcomes["passes"]
    assert (passed.outcome, passed.message, passed.figures) == ("passed", "all is well", {"answer": 42})


def test_a_check_starts_after_those_it_needs_and_finds_their_files(outcomes: dict[str, CheckRecord]) -> None:
    assert outcomes["reads"].message == "for later checks"


def test_a_failed_check_gives_the_problem_and_its_fix(outcomes: dict[str, CheckRecord]) -> None:
    assert (outcomes["refused"].outcome, outcomes["refused"].message) == ("failed", "the machine: is broken; repair it")


def test_an_exception_is_one_line_and_the_log_is_kept(outcomes: dict[str, CheckRecord]) -> None:
    failed = outcomes["raises"]
    assert (failed.outcome, failed.message) == ("failed", "RuntimeError: several lines; report it with doctor.json")
    assert "the last words" in failed.log
    assert any("Traceback" in line for line in failed.log)


def test_a_check_that_hangs_or_dies_has_failed(outcomes: dict[str, CheckRecord]) -> None:
    assert outcomes["hangs"].outcome == "failed"
    assert outcomes["hangs"].message.startswith("no result within 6 s; ")
    assert 6 <= outcomes["hangs"].seconds < 30
    assert outcomes["dies"].outcome == "failed"
    assert outcomes["dies"].message.startswith("its process ended with exit code -9; ")


def test_skipped_checks_have_a_reason(outcomes: dict[str, CheckRecord]) -> None:
    reasons = {name: check.message for name, check in outcomes.items() if check.outcome == "skipped"}
    assert reasons == {
        "inapplicable": "no such thing here",
        "on-gpu": "no GPU is used",
        "after-refused": "needs refused",
    }


def test_ranks_of_a_check_run_together_and_rank_0_answers(outcomes: dict[str, CheckRecord]) -> None:
    assert outcomes["ranks"].message == "rank 0 of 2 on cpu"


def test_the_error_of_another_rank_is_reported(outcomes: dict[str, CheckRecord]) -> None:
    assert (outcomes["bad-rank"].outcome, outcomes["bad-rank"].message) == ("failed", "rank 1: has no GPU; give it one")
    assert outcomes["bad-rank"].seconds < 30


def test_a_line_for_each_check_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_doctor(DoctorConfig(output=tmp_path / "doctor.json", only=("reads",)), GOOD)
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.endswith(": 2 checks on the CPU")  # with the one that it needs
    assert [re.sub(r"\d+\.\d", "N", line) for line in lines] == [
        "passed   passes (N s): all is well",
        "passed   reads (N s): for later checks",
    ]
    assert last.startswith("2 checks passed, 0 skipped, 0 failed in ")


def test_an_unknown_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--only atention: unknown check; did you mean 'attention'"):
        run_doctor(DoctorConfig(output=tmp_path / "doctor.json", only=("atention",)))


def test_more_gpus_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--device cuda: "):
        run_doctor(DoctorConfig(output=tmp_path / "doctor.json", gpus=2))


def place(gpus: int) -> Place:
    return Place(folder=Path(), gpus=gpus, preset="130m")


def test_checks_of_more_ranks_than_gpus_are_skipped() -> None:
    def skipped(gpus: int) -> set[str]:
        return {check.name for check in CHECKS if check.why_not(place(gpus))}

    assert skipped(0) == {"gpus", "compiler", "fp32", "compiled"}
    assert skipped(1) == {"layouts-2", "layouts-4"}
    assert skipped(2) == {"layouts-4"}
    assert skipped(4) == set()


def test_a_check_of_all_gpus_has_a_rank_for_each() -> None:
    check = Check("name", "about", "function", ranks=0)
    assert [check.ranks_at(place(gpus)) for gpus in (0, 1, 2, 4)] == [2, 1, 2, 4]


def test_every_check_needs_only_earlier_ones() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for index, check in enumerate(CHECKS):
        assert set(check.needs) <= set(names[:index]), check.name


@pytest.mark.slow
def test_all_checks_pass_on_this_machine_within_three_minutes(tmp_path: Path) -> None:
    file = tmp_path / "doctor.json"
    run_doctor(DoctorConfig(output=file))
    record = read_record(file, DoctorRecord)
    assert len(record.checks) == len(CHECKS)
    assert all(check.message for check in record.checks if check.outcome == "skipped")
    assert record.seconds < 180
