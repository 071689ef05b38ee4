"""Ranks agree: two real processes over gloo."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import torch.multiprocessing as mp

from tests.kit import ranks
from unicscale.errors import DataError, UserError
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection


def _rank(rank: int, size: int, folder: str, port: int) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = World.start(EngineSection(device="cpu"))
    if rank == 1:  # only one rank heard the signal
        world.stop.raise_("SIGUSR2")
    stop = world.agreed(stop=world.stop.raised(), save=False)[0]
    total = float(world.all_sum(torch.tensor(float(rank + 1))))
    names = world.gather_objects(f"rank {rank}")
    said = world.broadcast_object("from 0" if world.main else None)
    Path(folder, str(rank)).write_text(f"{stop} {total} {names} {said}")
    world.close()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_all_ranks_stop_when_one_is_asked_to(tmp_path: Path) -> None:
    mp.spawn(_rank, (2, str(tmp_path), free_port()), nprocs=2)
    expected = "True 3.0 ['rank 0', 'rank 1'] from 0"
    assert [(tmp_path / str(r)).read_text() for r in range(2)] == [expected, expected]


def test_one_rank_needs_no_process_group() -> None:
    world = World.start(EngineSection(device="cpu"))
    assert (world.size, world.main, world.agreed(stop=world.stop.raised(), save=False)[0]) == (1, True, False)
    assert not torch.distributed.is_initialized()


def troubled(error: UserError | None) -> str:
    world = World.start(EngineSection(device="cpu"))

    def act() -> int:
        if world.rank == 1 and error is not None:
            raise error
        return world.rank

    try:
        return str(world.together(act))
    except UserError as problem:
        return f"{type(problem).__name__} {problem}"
    finally:
        world.close()


def test_what_one_rank_cannot_do_is_an_error_on_all_that_names_it() -> None:
    assert ranks.run(2, troubled, None) == ["0", "1"]
    said = f"DataError rank 1, on {platform.node()}: no such beton"
    assert ranks.run(2, troubled, DataError("no such beton")) == [said, said]
