"""One cluster for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Running, with two idle nodes; its configuration in this process's environment."""
    why = missing()
    if why and os.environ.get("CI") == "true":
        pytest.fail(f"CI must run the Slurm tests: {why}")
    if why:
        pytest.skip(why)
    started = Cluster()
    try:
        started.start()
        yield started
    finally:
        started.stop()
