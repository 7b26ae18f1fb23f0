"""A folder has one owner, the error names it, and its lock is released when it exits."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pause_megatron.errors import UserError
from pause_megatron.locks import LOCK_FILE, sole_owner
from tests.disk import small_disk

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from pause_megatron.locks import sole_owner
with sole_owner(Path(sys.argv[1]), refusal="", owner="Slurm job 12, restart 1"):
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_owner_and_not_with_a_program_it_started(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())
        refusal = rf"taken \(.*, pid {holder.pid}, Slurm job 12, restart 1\)"
        with pytest.raises(UserError, match=refusal), sole_owner(tmp_path, refusal="taken", patience=lambda _: 0.3):
            pass
        holder.kill()
        with sole_owner(tmp_path, refusal="taken", patience=lambda _: 20.0) as is_locked:
            assert is_locked
            assert (tmp_path / LOCK_FILE).read_text().endswith(f"pid {os.getpid()}")
        os.kill(child, 0)  # still there
        os.kill(child, 9)


def test_patience_depends_on_the_other(tmp_path: Path) -> None:
    heard = []

    def patience(other: str) -> float:
        heard.append(other)
        return 0.0

    with (
        sole_owner(tmp_path, refusal="", owner="me"),
        pytest.raises(UserError, match="no"),
        sole_owner(tmp_path, refusal="no", patience=patience),
    ):
        pass
    assert heard
    assert heard[0].endswith(f"pid {os.getpid()}, me")
    with sole_owner(tmp_path, refusal="no"):
        pass


WITHOUT_LOCKS = """
import sys
from pathlib import Path
from pause_megatron.atomic import new_folder, sweep, write_json
from pause_megatron.locks import sole_owner
from tests.disk import refuse_locks
try:
    refuse_locks(int(sys.argv[1]))
except OSError as error:
    sys.exit(f"skip: {error}")
folder = Path(sys.argv[2])
with sole_owner(folder, refusal="taken") as lock:
    assert lock is None
    write_json(folder / "file.json", {"complete": True})
    with new_folder(folder / "folder") as new:
        (new / "part").touch()
    assert sweep(folder) == []
"""


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO])
def test_file_system_without_locks_is_a_warning(tmp_path: Path, error: int) -> None:
    command = [sys.executable, "-c", WITHOUT_LOCKS, str(error), str(tmp_path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.stderr.startswith("skip"):
        pytest.skip(f"{done.stderr.strip()}; a file system without locks was not checked")
    assert done.returncode == 0, done.stderr
    assert f"warning: {tmp_path / LOCK_FILE}: cannot be locked ({os.strerror(error)}); start no second" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {LOCK_FILE, "file.json", "folder"}


def test_folder_that_cannot_be_written_is_an_error_and_a_full_one_can_be_locked(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as resize:
        folder = tmp_path / "disk"
        with sole_owner(folder, refusal=""):
            pass
        (folder / "ballast").write_bytes(bytes(os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize))
        with sole_owner(folder, refusal="") as lock:
            assert lock is not None
        resize("64k,ro")
        line = f"{folder / LOCK_FILE}: Read-only file system; choose a path that you may use"
        with pytest.raises(UserError, match=line), sole_owner(folder, refusal=""):
            pass
