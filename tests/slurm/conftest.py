"""One private cluster for all tests of a session that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason:
        pytest.skip(f"Slurm was not checked: {reason}")
    running = Cluster()
    try:
        yield running
    finally:
        running.close()
