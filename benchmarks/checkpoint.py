"""How long training stands still for a checkpoint, written behind its back and in its way.

    python benchmarks/checkpoint.py [--ranks 2] [--arch vit_small] [--engine plain] [--out F.json]

Each rank holds weights and both moments in fp32; "stall" is what `Saver.save` takes before it returns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from unicscale.checkpoint import Saver, find, restore
from unicscale.contracts import Progress
from unicscale.engine import build_engine
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.student.model import build_student


def recipe(given: argparse.Namespace, asynchronous: bool) -> Recipe:
    """What the saver needs to know of a run."""
    return Recipe.model_validate(
        {
            "schema": 1,
            "out": "unused",
            "data": {"train": ["unused"], "images_per_step": 8},
            "student": {"arch": given.arch},
            "teachers": {"one": {"weights": "random"}},
            "stages": [{"name": "only", "size": 224, "steps": 1, "lr": {"peak": 1e-3}}],
            "engine": {"kind": given.engine, "device": "cpu"},
            "save": {"keep": 1, "asynchronous": asynchronous},
        }
    )


def measure(rank: int, given: argparse.Namespace, folder: str, answer: Any) -> None:
    """One rank: three saves each way, then a restore."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(given.ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(given.port)}
    torch.set_num_threads(1)
    plan = recipe(given, True)
    world = World.start(plan.engine)
    student = build_student(plan.student, plan.projector, {"one": 1024, "two": 768}, 224)
    names = [name for name, _ in student.named_parameters()]
    engine = build_engine(plan.engine, student, seed=0, world=world, micro_batches=1, size=224)
    times: dict[str, list[float]] = {"stall": [], "behind": [], "blocking": []}
    for asynchronous in (True, False):
        saver = Saver(Path(folder), recipe(given, asynchronous), world, parameters=names)
        for step in range(given.times + 1):  # the first also pays for the snapshot's memory
            world.barrier()
            began = time.monotonic()
            saver.save(Progress(0, step + 100 * asynchronous, 0), engine, {})
            stood = time.monotonic() - began
            saver.wait()
            if step:
                times["stall" if asynchronous else "blocking"].append(stood)
            if step and asynchronous:
                times["behind"].append(time.monotonic() - began)
    began = time.monotonic()
    found = find(Path(folder), world)
    assert found is not None
    restore(found, engine, world, parameters=names)
    if world.main:
        size = sum(proof.size for proof in found.manifest.files.values())
        median = {name: round(statistics.median(values), 3) for name, values in times.items()}
        answer.put(median | {"restore": round(time.monotonic() - began, 3), "gib": round(size / 2**30, 3)})
    world.close()


def main() -> None:
    """One line of JSON, and into a file where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--engine", default="plain", choices=["plain", "fsdp2"])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        given.port = probe.getsockname()[1]
    answer = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        mp.spawn(measure, (given, folder, answer), nprocs=given.ranks)
    result = {"arch": given.arch, "engine": given.engine, "ranks": given.ranks} | answer.get()
    result["stall_share"] = round(result["stall"] / result["blocking"], 3)
    result |= {"cores": os.cpu_count(), "system": platform.platform(), "date": time.strftime("%Y-%m-%d")}
    print(json.dumps(result))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        held = json.loads(given.out.read_text()) if given.out.exists() else []
        given.out.write_text(json.dumps([*held, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
