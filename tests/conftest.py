"""What every test shares: one thread each (the machines that run these have two cores) and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def nobody_else_listens() -> Iterator[None]:
    """A test's log handlers end with it: the next one reads what is said on the terminal."""
    from unicscale.ranks.voice import close_voice

    close_voice()
    yield
    close_voice()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden numbers."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout under test."""
    return REPOSITORY
