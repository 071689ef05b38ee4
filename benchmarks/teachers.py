"""Loading a sharded teacher into two CPU ranks: how long, and how much host memory at the peak, in copies of it.

    python benchmarks/teachers.py                    DINOv2-g, random weights, 2.2 GB in bf16
    python benchmarks/teachers.py --file             the same from an official-layout file in fp32, written first
    python benchmarks/teachers.py --size small

Prints one line and, with --out, adds it to a JSON file. Memory is what the ranks hold (anonymous and shared pages);
a mapped file's pages belong to the page cache and are shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from unicscale.engine import build_engine
from unicscale.ranks.rendezvous import free_port
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection, Ladder, Standardize, Student, TeacherSection
from unicscale.student.model import build_student
from unicscale.teacher.frozen import open_frozen
from unicscale.teacher.targets import Teachers

RANKS, INTERVAL = 2, 0.02


def main() -> None:
    """Fill, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="giant", choices=["small", "base", "large", "giant"])
    parser.add_argument("--file", action="store_true", help="read an official-layout file instead of drawing")
    parser.add_argument("--scratch", help="a folder for that file, with 4.6 GB free for the giant")
    parser.add_argument("--out", type=Path, help="a JSON file that gets the row")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        weights = str(official_file(given.size, Path(folder))) if given.file else "random"
        found = measure(given.size, weights, Path(folder))
    row = {"row": "teacher loading", "size": given.size, "file": given.file, "ranks": RANKS, **found}
    row |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "date": time.strftime("%Y-%m-%d")}
    print(
        f"dinov2 {given.size} {'from a file' if given.file else 'random'}, {RANKS} ranks: {row['seconds']:.1f} s, "
        f"peak {row['copies']:.2f} copies of {row['gigabytes']:.2f} GB (+ {row['mapped_copies']:.2f} mapped)"
    )
    if given.out:
        rows = json.loads(given.out.read_text()) if given.out.exists() else []
        given.out.write_text(json.dumps([*rows, row], indent=1) + "\n")


def official_file(size: str, folder: Path) -> Path:
    """fp32 under DINOv2's own names."""
    state = open_frozen("dinov2", section(size, "random")).module.state_dict()
    names = (("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3")) if size == "giant" else ()
    for old, new in names:
        state = {name.replace(old, new): t for name, t in state.items()}
    state["norm.weight"] = state["norm.weight"] * 1.5  # a file whose norms are all 1 is refused as untrained
    torch.save(state | {"mask_token": torch.zeros(1, state["norm.weight"].numel())}, folder / "official.pth")
    return folder / "official.pth"


def section(size: str, weights: str) -> TeacherSection:
    return TeacherSection.model_validate({"plugin": "dinov2", "size": size, "weights": weights, "shard": "full"})


def measure(size: str, weights: str, folder: Path) -> dict[str, Any]:
    """The ranks load; this process adds up what they hold, above what they held before."""
    arguments = (size, weights, str(folder), free_port())
    ranks = mp.spawn(rank, arguments, nprocs=RANKS, join=False)
    pids = [process.pid for process in ranks.processes]
    wait_for(folder, "ready")
    before = held(pids)
    (folder / "go").touch()
    peak, mapped = before[0], before[1]
    while not all((folder / f"loaded-{r}").exists() for r in range(RANKS)) and any(
        p.is_alive() for p in ranks.processes
    ):
        own, files = held(pids)
        peak, mapped = max(peak, own), max(mapped, files)
        time.sleep(INTERVAL)
    (folder / "done").touch()
    while not ranks.join():
        pass
    told = json.loads((folder / "loaded-0").read_text())
    copy = told["parameters"] * 2
    return {
        "seconds": told["seconds"],
        "gigabytes": copy / 1e9,
        "copies": (peak - before[0]) / copy,
        "mapped_copies": (mapped - before[1]) / copy,
    }


def rank(number: int, size: str, weights: str, folder: str, port: int) -> None:
    """One rank: everything is imported and connected before the watch begins."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(number), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(number))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    engine_section = EngineSection(kind="fsdp2", dtype="bf16", device="cpu")
    world = World.start(engine_section)
    tiny = Student(arch="vit_tiny", patch=14, options={"embed_dim": 64, "depth": 1, "num_heads": 2})
    student = build_student(tiny, Ladder(), {"t": 64}, 28)
    engine = build_engine(engine_section, student, seed=0, world=world, micro_batches=1, size=28)

    def load(which: str, source: str) -> Teachers:
        return Teachers.build(
            {"t": section(which, source)}, Standardize(), student_patch=14, engine=engine,
            engine_section=engine_section, world=world,
        )  # fmt: skip

    load("small", "random")  # imports timm, warms gloo up
    Path(folder, f"ready-{number}").touch()
    wait_for(Path(folder), "go", "")
    started = time.perf_counter()
    teachers = load(size, weights)
    told = {"seconds": time.perf_counter() - started}
    told["parameters"] = sum(p.numel() for p in teachers.frozen["t"].parameters())
    Path(folder, "part").with_suffix(f".{number}").write_text(json.dumps(told))
    Path(folder, f"part.{number}").rename(Path(folder, f"loaded-{number}"))
    wait_for(Path(folder), "done", "")
    world.close()


def wait_for(folder: Path, name: str, *suffixes: str) -> None:
    """A file from every rank, or the one file named."""
    names = [name] if suffixes else [f"{name}-{r}" for r in range(RANKS)]
    while not all((folder / each).exists() for each in names):
        time.sleep(INTERVAL)


def held(pids: list[int]) -> tuple[int, int]:
    """Bytes that the processes hold themselves, and bytes of mapped files; each page counted once."""
    own = files = 0
    for pid in pids:
        try:
            said = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        parts = {
            name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(Pss_\w+): +(\d+)", said, re.MULTILINE)
        }
        own += parts["Pss_Anon"] + parts["Pss_Shmem"]
        files += parts["Pss_File"]
    return own, files


if __name__ == "__main__":
    main()
