"""Whole runs in processes that can be killed: forked from a server that has imported torch already.

A forked launch is the command line without the interpreter's start: `unicscale train`, its exit code, its messages.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from unicscale import checkpoint

HEAVY = ["torch", "unicscale.cli", "unicscale.train", "unicscale_teachers.dino", "unicscale_teachers.dinov2"]
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(HEAVY)
Sabotage = tuple[str, dict[str, object]]  # a function of sabotage.py and its arguments


class Launch:
    """One launch of a run: its ranks as processes, what they said in one file each."""

    def __init__(
        self,
        recipe: Path,
        *overrides: str,
        ranks: int = 1,
        sabotage: Sabotage | None = None,
        on: int = 0,
        instead: Sabotage | None = None,
    ) -> None:
        self.recipe, self.began = recipe, time.monotonic()
        self.run = recipe.parent / "run"
        number = sum(1 for _ in recipe.parent.glob("said-*-0.txt"))
        self.said_in = [recipe.parent / f"said-{number}-{rank}.txt" for rank in range(ranks)]
        port = free_port()
        self.processes = []
        for rank in range(ranks):
            environment = {"OMP_NUM_THREADS": "1"}
            if ranks > 1:
                environment |= {
                    "RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                    "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
                }  # fmt: skip
            command = ["unicscale", "train", str(recipe), *overrides]
            harm = sabotage if rank == on else None
            process = server.Process(target=one_rank, args=(command, environment, self.said_in[rank], harm, instead))
            process.start()
            self.processes.append(process)

    def steps(self) -> int:
        """How many steps metrics.jsonl knows of."""
        return max((record["step"] for record in records(self.run)), default=0)

    def until(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for something, but not for ever, and not for the dead."""
        while not ready():
            assert self.alive(), f"ended early:\n{self.said()}"
            assert time.monotonic() - self.began < seconds, f"not ready after {seconds} s:\n{self.said()}"
            time.sleep(0.01)

    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def signal(self, number: int = signal.SIGKILL, rank: int | None = None) -> None:
        """To all ranks, or to one."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            assert process.pid is not None
            os.kill(process.pid, number)

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Exit codes; a process that outlives the limit is killed and fails the test."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for rank in hanging:
            self.processes[rank].kill()
        assert not hanging, f"rank {hanging} still alive after {seconds} s:\n{self.said()}"
        return [process.exitcode for process in self.processes]

    def said(self) -> str:
        """What all ranks wrote to their terminals."""
        return "\n".join(file.read_text() for file in self.said_in if file.exists())


def one_rank(
    command: list[str], environment: dict[str, str], said_in: Path, harm: Sabotage | None, instead: Sabotage | None
) -> None:
    """Inside the process: become `unicscale train`, or do something else."""
    terminal = os.open(said_in, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    for name, arguments in filter(None, (harm, instead)):
        getattr(importlib.import_module("tests.faults.sabotage"), name)(**arguments)
    if instead is None:
        sys.argv = command
        importlib.import_module("unicscale.cli").main()


def records(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl, without a last line that a kill tore."""
    try:
        lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def call(function: str, arguments: dict[str, object], harm: Sabotage | None = None, seconds: float = 60) -> int | None:
    """Run one function of sabotage.py in a process of its own; its exit code."""
    process = server.Process(target=_called, args=(function, arguments, harm), daemon=True)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"{function} still runs after {seconds} s")
    return process.exitcode


def _called(function: str, arguments: dict[str, object], harm: Sabotage | None) -> None:
    sabotage = importlib.import_module("tests.faults.sabotage")
    if harm is not None:
        getattr(sabotage, harm[0])(**harm[1])
    getattr(sabotage, function)(**arguments)


def digest(run: Path, *kinds: str) -> str:
    """sha256 over every tensor of the newest checkpoint, by name: files may be cut differently, numbers not."""
    found = checkpoint.locate(run)
    total = hashlib.sha256(str(found.progress).encode())
    for kind in kinds or ("weights", "exp_avg", "exp_avg_sq", "optimizer", "ema", "statistics", "balance"):
        for name, tensor in sorted(found.tensors(kind).items()):
            total.update(f"{kind}/{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
