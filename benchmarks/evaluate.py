"""Evaluation at the paper's sizes: k-NN, logistic regression, feature extraction beside the bare forward.

    python benchmarks/evaluate.py knn        1.28 M x 1024 features against --queries queries, memory measured
    python benchmarks/evaluate.py logistic   50 k x 768, 100 classes, one C (L-BFGS) and one (lr, wd) (SGD)
    python benchmarks/evaluate.py extract    a ViT-B/16 on JPEGs of 500 x 375, and the same forward on pixels in memory
    python benchmarks/evaluate.py tasks      k-NN and linear by `unicscale evaluate`, whole, 4,000 images, a ViT-S/14

Without a name, all four. Each prints one line and adds it to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unicscale import load
from unicscale.data.once import open_eval
from unicscale.evaluate.features import store
from unicscale.evaluate.features.extract import extract
from unicscale.evaluate.metrics.knn import knn_predict
from unicscale.evaluate.metrics.linear import accuracy, lbfgs, sgd
from unicscale.evaluate.metrics.nearest import screens
from unicscale.ranks.world import World
from unicscale.recipe.sections import Student as StudentSection
from unicscale.student.model import Student
from unicscale.student.trunk import build_trunk

BANK, WIDTH, CLASSES = 1_281_167, 1024, 1000
TASK_IMAGES = 4000  # half of them to learn from


def knn(given: argparse.Namespace) -> dict[str, Any]:
    """The bank lies on disk in fp16, as the cache keeps it; random features, so every query is as hard as any other."""
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        path = Path(folder) / "bank.safetensors"
        plan = {"summary": ((given.bank, WIDTH), torch.float16)}
        store.create(path, plan, {})
        filling = store.Filling(path, plan)
        generator = torch.Generator().manual_seed(0)
        block = torch.randn(65_536, WIDTH, generator=generator).half()
        for turn, first in enumerate(range(0, given.bank, len(block))):  # turned, a row is another random row
            filling.put(first, {"summary": block[: given.bank - first].roll(turn, dims=1)})
        filling.close()
        bank = store.read(path)["summary"]
        labels = torch.randint(CLASSES, (given.bank,), generator=generator)
        queries = torch.randn(given.queries, WIDTH, generator=generator)
        start, busy = time.perf_counter(), time.process_time()
        with PeakMemory() as memory:
            knn_predict(bank, labels, queries, ks=(10, 20, 100, 200), classes=CLASSES, device=given.device)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {
        "bank": [given.bank, WIDTH],
        "screened in bf16": screens(given.device),
        "seconds": seconds,
        "queries": given.queries,
        "queries/s": given.queries / seconds,
        "queries per CPU second": given.queries / busy,
        "GFLOP per CPU second": 2e-9 * given.bank * WIDTH * given.queries / busy,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,  # pages of the mapped bank included
        "peak GB beside the mapped bank": memory.peak,
    }


class PeakMemory(threading.Thread):
    """The most memory that is this process's own, looked at five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.2):
            own = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            self.peak = max(self.peak, int(own[1]) / 2**20 if own else 0.0)

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.done.set()
        self.join()


def logistic(given: argparse.Namespace) -> dict[str, Any]:
    """Overlapping classes, as features of frozen models are."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(100, (60_000,), generator=generator)
    features = torch.randn(100, 768, generator=generator)[labels] + 6 * torch.randn(60_000, 768, generator=generator)
    train, test = features[:50_000], features[50_000:]
    found: dict[str, Any] = {"train": [50_000, 768], "classes": 100}
    start, busy = time.perf_counter(), time.process_time()
    fitted = lbfgs(train, labels[:50_000], 1.0)
    found |= {"L-BFGS, C = 1, seconds": time.perf_counter() - start, "L-BFGS CPU": time.process_time() - busy}
    found["L-BFGS accuracy"] = accuracy(fitted.predict(test), labels[50_000:])
    normal = torch.nn.functional.normalize(train, dim=1).to(given.device)
    start, busy = time.perf_counter(), time.process_time()
    one = sgd(normal, labels[:50_000], [(10.0, 1e-6)], classes=100)[0]
    found |= {"SGD, 100 epochs, seconds": time.perf_counter() - start, "SGD CPU": time.process_time() - busy}
    found["SGD accuracy"] = accuracy(one.predict(torch.nn.functional.normalize(test, dim=1)), labels[50_000:])
    return found


def extraction(given: argparse.Namespace) -> dict[str, Any]:
    """ABBA: bare forward, extraction, extraction, bare forward."""
    trunk = build_trunk(StudentSection(arch="vit_base"), 224)
    student = Student(trunk).to_empty(device="cpu")
    student.load_state_dict({n: student.initial(n, tuple(p.shape), 0) for n, p in student.named_parameters()})
    student.eval().to(given.device)
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        (Path(folder) / "images").mkdir()
        for number in range(given.images):
            small = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(f"{folder}/images/{number}.jpg")
        images = open_eval(f"{folder}/images", size=224, batch=given.batch, device=given.device)
        held = [pixels for pixels, _, _ in images]

        def bare() -> None:
            with torch.inference_mode():
                for pixels in held:
                    student(pixels).features.summary.sum().item()

        def whole() -> None:
            world = World(device=torch.device(given.device))
            out = Path(folder) / "f.safetensors"
            extract(lambda pixels: student(pixels).features, images, out, dtype=torch.float32, world=world)

        bare()
        times: dict[Callable, list[tuple[float, float]]] = {bare: [], whole: []}
        for one in (bare, whole, whole, bare) * given.rounds:
            start, busy = time.perf_counter(), time.process_time()
            one()
            times[one].append((time.perf_counter() - start, time.process_time() - busy))
    # where others use the machine too, the best turns and the CPU time say more than the median
    clocks = {"": (statistics.median, 0), ", best turns": (min, 0), " of CPU time": (statistics.median, 1)}
    found: dict[str, Any] = {"images": given.images, "turns": 2 * given.rounds}
    for name, (typical, clock) in clocks.items():
        alone, together = (typical(t[clock] for t in times[one]) for one in (bare, whole))
        found |= {f"bare images/s{name}": given.images / alone, f"extraction images/s{name}": given.images / together}
        found[f"share{name}"] = alone / together
    return found


def tasks(given: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of the command from its start to its table, over those of the forward of the same images alone."""
    teacher = load("teacher:dinov2", weights="random", options={"size": "small"})
    with tempfile.TemporaryDirectory() as folder:
        generator, place = np.random.default_rng(0), Path(folder) / "sets" / "own"
        for number in range(TASK_IMAGES):
            split, label = ("train", "val")[number % 2], number // 2 % 20
            (place / split / str(label)).mkdir(parents=True, exist_ok=True)
            small = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC)
            picture.save(place / split / str(label) / f"{number}.jpg")
        asked = ["teacher:dinov2", "--weights", "dinov2=random", "--option", "dinov2.size=small", "--size", "112"]
        where = ["--data", f"{folder}/sets", "--suite", "own", "--out", f"{folder}/out.json", "--cache", f"{folder}/c"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "unicscale", "evaluate", *asked, *where], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        pixels = torch.zeros(50, 3, 112, 112, dtype=torch.uint8)
        teacher(pixels)
        busy = time.process_time()
        for _ in range(TASK_IMAGES // len(pixels)):
            teacher(pixels)
        busy = time.process_time() - busy
    return {"images": TASK_IMAGES, "command, CPU s": whole, "forward, CPU s": busy, "times": whole / busy}


ROWS = {"tasks": tasks, "knn": knn, "logistic": logistic, "extract": extraction}


def main() -> None:
    """Measure the rows that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--bank", type=int, default=BANK)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scratch", default=None, help="where 2.6 GB of random features may lie for a while")
    parser.add_argument("--out", type=Path, help="by default results/DATE-DEVICE-evaluate.json")
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    out = given.out or Path(__file__).parent / "results" / f"{date.today().isoformat()}-{given.device}-evaluate.json"
    for row in given.rows or ROWS:
        measure(row, given, out)


def measure(row: str, given: argparse.Namespace, out: Path) -> None:
    """One row, printed, and in the place of an older one in the file."""
    found = {k: round(v, 3) if isinstance(v, float) else v for k, v in ROWS[row](given).items()}
    machine = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor() or platform.machine()
    found = {"row": row, "machine": f"{machine}, {torch.get_num_threads()} threads", **found}
    print(json.dumps(found))
    rows = json.loads(out.read_text()) if out.exists() else []
    out.write_text(json.dumps([*(r for r in rows if r["row"] != row), found], indent=1) + "\n")


if __name__ == "__main__":
    main()
