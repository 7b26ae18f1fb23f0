"""Process of one check: ``python -m pause_megatron.doctor.child SETTINGS``, which the doctor starts.

The process runs the check's function, or starts its ranks if there are several, and rank 0 writes the outcome.
"""

import json
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pause_megatron.atomic import write_json
from pause_megatron.children import end_with_parent
from pause_megatron.doctor.check import Check, Place, Skipped, find_check
from pause_megatron.errors import UserError, one_line
from pause_megatron.log import global_rank, quiet_libraries
from pause_megatron.parallel.local_launcher import run_local_processes
from pause_megatron.records.doctor import Outcome

PROGRAM = (sys.executable, "-m", "pause_megatron.doctor.child")
IS_RANK = "rank"
"""Second argument of a process that is one of several ranks."""


@dataclass(frozen=True)
class Result:
    """Outcome of a check's function."""

    outcome: Outcome
    message: str
    figures: dict[str, Any]


def result_file(place: Place, check: Check) -> Path:
    """Return the file that rank 0 of ``check`` writes its result to."""
    return place.folder / f"{check.name}.result.json"


def read_result(place: Place, check: Check) -> Result | None:
    """Return the result of ``check``; None if its process ended without one."""
    file = result_file(place, check)
    return Result(**json.loads(file.read_bytes())) if file.exists() else None


def settings_of(place: Place, check: Check, table: str) -> str:
    """Return the argument of the process of ``check``; ``table`` is a reference ``module:NAME`` to its table."""
    values = {"folder": str(place.folder), "gpus": place.gpus, "preset": place.preset}
    return json.dumps({"place": values, "check": check.name, "table": table})


def main(arguments: list[str]) -> int:
    """Run one check; returns 0 if its outcome was written."""
    end_with_parent()
    quiet_libraries()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    settings = json.loads(arguments[0])
    place = Place(**{**settings["place"], "folder": Path(settings["place"]["folder"])})
    check = find_check(resolve_name(settings["table"]), settings["check"])
    ranks = check.ranks_at(place)
    if ranks > 1 and IS_RANK not in arguments:
        return run_local_processes([*arguments, IS_RANK], ranks, PROGRAM, device_choice=check.device_at(place))
    result = _run(check, place)
    if global_rank() == 0 or result.outcome == "failed":
        write_json(result_file(place, check), vars(result))
    return 1 if result.outcome == "failed" and ranks > 1 else 0


def _run(check: Check, place: Place) -> Result:
    try:
        figures = check.run(place)
    except Skipped as reason:
        return Result("skipped", str(reason), {})
    except UserError as error:
        return Result("failed", str(error), {})
    except Exception as error:
        traceback.print_exc()
        problem = f"{type(error).__name__}: {one_line(error)[:300]}"
        return Result("failed", f"{problem}; report it with doctor.json", {})
    return Result("passed", figures.pop("found", ""), figures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
