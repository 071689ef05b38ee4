"""The seam for schedulers: what only the queue of a cluster knows, of this process's job and of this user's others.

Slurm comes along. Another one is a class that you name wherever runs are started and looked at:
UNICSCALE_SCHEDULER=package.module:Class.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import ClassVar, NamedTuple

from unicscale.errors import RecipeError

VARIABLE = "UNICSCALE_SCHEDULER"
SLURM = "unicscale.ranks.slurm:Slurm"


class Phase(StrEnum):
    """Where a job stands, in words that every queue has."""

    WAITING = "waiting"  # for its first start, or to be started again
    RUNNING = "running"  # suspended is running: its processes are there
    LEAVING = "leaving"  # its processes are being ended
    CANCELLED = "cancelled"
    GONE = "gone"  # ended in some other way, or forgotten


class Entry(NamedTuple):
    """A job in the queue."""

    phase: Phase
    nodes: str = ""


Queue = dict[str, Entry]


class Seat(NamedTuple):
    """Which rank this process is, where a scheduler started it and says so in words of its own."""

    rank: int
    size: int
    local: int  # among the ranks of this node
    here: int  # how many ranks this node has
    launch: str  # different for every launch, the same on every rank of it


class Scheduler(ABC):
    """Asked of the environment where that knows it, else of the queue; None where nobody can say."""

    name: ClassVar[str]

    @abstractmethod
    def job(self) -> str | None:
        """This process's job, as the queue prints it; None outside of one."""

    @abstractmethod
    def restarts(self) -> int:
        """How often this job was put back into the queue."""

    @abstractmethod
    def submission(self) -> str | None:
        """The same for all launches that one command of the user caused: requeues count together."""

    @abstractmethod
    def seat(self, environment: Mapping[str, str]) -> Seat | None:
        """This process among the ranks; None where something else (torchrun, a person) started it."""

    @abstractmethod
    def seconds_left(self) -> float | None:
        """Until this job's time limit."""

    @abstractmethod
    def phase(self, job: str) -> Phase | None:
        """Of any job, this user's or another's; None where the queue does not answer."""

    @abstractmethod
    def queue(self) -> Queue | None:
        """This user's jobs, by one question; None where the queue does not answer."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """Take a job out of the queue, or raise RunError with the queue's own words."""

    def nodes(self) -> str | None:
        """The nodes of this job, as people write them."""
        return None

    def node(self) -> str | None:
        """The name by which other nodes of this job know this one."""
        return None


def scheduler() -> Scheduler:
    """The one of this cluster."""
    return _named(os.environ.get(VARIABLE) or SLURM)


def submission_name() -> str:
    """Who asked for this launch: launches of one name in a row that get nowhere are given up."""
    return os.environ.get("UNICSCALE_SUBMISSION") or scheduler().submission() or f"process-{os.getpid()}"


@cache
def _named(path: str) -> Scheduler:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as problem:
        raise RecipeError(f"${VARIABLE} is '{path}': {problem}.\n  Write it as package.module:Class.") from problem
    if not isinstance(found, Scheduler):
        raise RecipeError(f"${VARIABLE} is '{path}', and that is no unicscale.ranks.scheduler.Scheduler.")
    return found
