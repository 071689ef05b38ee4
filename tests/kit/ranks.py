"""Several ranks on this machine for one test: real processes, real gloo, torch imported once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

PRELOAD = ["torch", "torch.distributed.fsdp", "timm", "unicscale.student.model", "unicscale.engine.fsdp2"]


def run(size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 280) -> list[Any]:
    """`function(*arguments)` on `size` ranks; what each returned, in rank order."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    results, port = context.Queue(), _free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, size, port, results, function, arguments)) for rank in range(size)
    ]
    for process in ranks:
        process.start()
    try:
        said = dict(results.get(timeout=timeout) for _ in range(size))
    finally:
        for process in ranks:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
    failures = [f"rank {rank}:\n{text}" for rank, (fine, text) in sorted(said.items()) if not fine]
    assert not failures, "\n".join(failures)
    return [pickle.loads(said[rank][1]) for rank in range(size)]


def _rank(
    rank: int, size: int, port: int, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu",
    )  # fmt: skip
    import torch

    torch.set_num_threads(1)
    try:
        results.put((rank, (True, pickle.dumps(function(*arguments)))))  # tensors by value, not by shared memory
    except BaseException:
        results.put((rank, (False, traceback.format_exc())))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
