"""Every check of the doctor on this machine's GPUs; ``make test-gpu`` runs them."""

from __future__ import annotations

import pytest

from pause_megatron.config.doctor import DoctorConfig
from pause_megatron.doctor.run import run_doctor
from pause_megatron.doctor.table import CHECKS
from pause_megatron.errors import UserError
from pause_megatron.records.doctor import CheckRecord, DoctorRecord
from pause_megatron.records.files import read_record

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckRecord]:
    """All checks, run once."""
    file = tmp_path_factory.mktemp("doctor") / "doctor.json"
    try:
        run_doctor(DoctorConfig(output=file))
    except UserError:
        if not file.exists():
            raise
    return {check.name: check for check in read_record(file, DoctorRecord).checks}


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_check_passes(outcomes: dict[str, CheckRecord], name: str) -> None:
    check = outcomes[name]
    if check.outcome == "skipped":
        pytest.skip(check.message)
    assert check.outcome == "passed", "\n".join([check.message, *check.log])


def test_record_names_the_gpus(outcomes: dict[str, CheckRecord]) -> None:
    assert outcomes["gpus"].figures["gpus"]
