"""What every test shares: one thread each (the machines that run these have two cores) and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: Any) -> int:
    """`-n auto`: a process per core and 5 GB, and no more than four: tests start ranks of their own."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = min(4, len(os.sched_getaffinity(0)), int(memory / 5e9))
    return found if found > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """With `-n`, a file stays in one process, whose fixtures its tests share; so does all that starts Slurm."""
    from xdist.scheduler import LoadFileScheduling

    class OneSlurm(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "slurm" if nodeid.startswith("tests/slurm/") else super()._split_scope(nodeid)

    return OneSlurm(config, log)


@pytest.fixture(autouse=True)
def nobody_else_listens() -> Iterator[None]:
    """A test's log handlers end with it: the next one reads what is said on the terminal."""
    from unicscale.ranks.voice import close_voice

    close_voice()
    yield
    close_voice()


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """What a file's tests leave in the environment ends with it: an engine's $RANK is no rank of the next file."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden numbers."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout under test."""
    return REPOSITORY
