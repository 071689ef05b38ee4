"""Images per second and core: our readers beside the plain pipeline, on the same JPEGs, interleaved in one run.

    python benchmarks/loader.py [--images 512] [--batch 64] [--repeats 3] [--machine "2 cores, no GPU"]

Plain is torchvision's ImageFolder and v2 transforms in a DataLoader, all augmentation on the CPU. A rate per core is
images over the CPU seconds of the process, its threads and its workers: on a shared machine that is steadier than wall
time over the number of cores. Rows run forwards, then backwards (ABBA), and medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from unicscale import rng
from unicscale.contracts import Progress
from unicscale.data.loader import open_loader
from unicscale.data.pack.writing import Form, pack
from unicscale.data.views.augment import augment
from unicscale.recipe.sections import Augment, Data

SIZE = 224
OFF = {"jitter": 0, "grey": 0, "blur": 0, "solarize": 0}


def photograph(number: int, height: int, width: int) -> Image.Image:
    """Random fields of many scales: compresses about as an ImageNet photograph does."""
    g = np.random.default_rng(number)
    total = np.full((height, width, 3), 128.0)
    for cells in (3, 6, 12, 24, 48, 96):
        field = g.normal(0, 110 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        planes = [Image.fromarray(field[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        total += np.stack([np.asarray(p) for p in planes], -1)
    return Image.fromarray((total + g.normal(0, 6, total.shape)).clip(0, 255).astype(np.uint8))


def plain(folder: str, batch: int, workers: int) -> Callable[[], int]:
    """The reference pipeline, one epoch per call."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.08, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(9, (0.1, 5.0))], 0.2),
            v2.RandomSolarize(128, 0.2),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    return lambda: sum(len(images) for images, _ in loader)


def ours(path: str, batch: int, workers: int, checked: bool = True, **options: object) -> Callable[[], int]:
    """One of our readers, one epoch per call; not `checked`: without comparing checksums."""
    section = Data.model_validate({"train": [path], "images_per_step": batch, "workers": workers} | options)
    loader = open_loader(section, seed=0)
    if not checked:
        loader.supply.sets[0].trailer = None
    steps = loader.images_per_epoch // batch
    return lambda: sum(len(b.images) for b in loader.start(Progress(), lambda _: SIZE, steps))


def cpu_seconds() -> float:
    """Of this process and its living children."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(p.cpu_times().user + p.cpu_times().system for p in family)


def measured(epoch: Callable[[], int]) -> tuple[float, float]:
    """Images per CPU second, images per second."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    count = epoch()
    return count / (cpu_seconds() - cpu), count / (time.perf_counter() - wall)


def colour_per_image() -> float:
    """Milliseconds of one core for all colour augmentation of an image."""
    images = torch.randint(0, 256, (64, 3, SIZE, SIZE), dtype=torch.uint8)
    keys = rng.keys_numpy(rng.key(0), np.arange(64))
    times = []
    for _ in range(5):
        start = cpu_seconds()
        augment(images, keys, Augment())
        times.append((cpu_seconds() - start) / 64 * 1e3)
    return statistics.median(times)


FIRST = """
import sys, time
import torch, torchvision
start, used = time.perf_counter(), time.process_time()
from unicscale.contracts import Progress
from unicscale.data.loader import open_loader
from unicscale.recipe.sections import Data
section = Data(train=[sys.argv[1]], images_per_step=128, reader=sys.argv[2])
batches = open_loader(section, seed=0).start(Progress(), lambda _: 224, 8)
next(batches)
print(time.perf_counter() - start, time.process_time() - used)
list(batches)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def first_batch(path: str, reader: str) -> dict[str, float]:
    """From a process that has imported torch to its first batch of 128, and its peak memory."""
    command = [sys.executable, "-c", FIRST, path, reader]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {"seconds": round(float(out[0]), 1), "cpu_seconds": round(float(out[1]), 1), "peak_mib": int(out[2]) // 1024}


def main() -> None:
    """Make the images, run the rows, print the table and one JSON."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--images", type=int, default=512)
    ask.add_argument("--batch", type=int, default=64)
    ask.add_argument("--repeats", type=int, default=2, help="of forwards and backwards")
    ask.add_argument("--machine", default=f"{os.cpu_count()} cores")
    ask.add_argument("--name", default="cpu", help="of the machine, in the result file's name")
    given = ask.parse_args()
    workers = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)  # as in DataLoader's workers: threads that wait for each other burn the time counted here
    with tempfile.TemporaryDirectory() as scratch:
        result = run(Path(scratch), given.images, given.batch, given.repeats, workers)
    result |= {"machine": given.machine, "date": date.today().isoformat(), "torch": torch.__version__}
    file = Path(__file__).parent / "results" / f"{result['date']}-{given.name}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(kept | {"loader": result}, indent=1) + "\n")
    print(json.dumps(result))


def run(scratch: Path, images: int, batch: int, repeats: int, workers: int) -> dict:
    """All rows."""
    tree = scratch / "tree"
    for number in range(images):
        file = tree / f"c{number % 8}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        height, width = (375, 500) if number % 3 else (500, 375)
        photograph(number, height, width).save(file, quality=92)
    sizes = {"full": Form(), "short256": Form(short_side=256), "raw256": Form(mode="raw", short_side=256)}
    betons = {name: pack(str(tree), str(scratch / f"{name}.beton"), form).path for name, form in sizes.items()}
    rows = {
        "plain": plain(str(tree), batch, workers),
        "folder": ours(str(tree), batch, workers),
        "beton full": ours(betons["full"], batch, workers, reader="beton"),
        "ffcv full": ours(betons["full"], batch, workers),
        "ffcv 256, no colour": ours(betons["short256"], batch, workers, augment=OFF),
        "ffcv raw 256, no colour": ours(betons["raw256"], batch, workers, augment=OFF),
        "ffcv 256, unchecked": ours(betons["short256"], batch, workers, checked=False, augment=OFF),
        "ffcv raw 256, unchecked": ours(betons["raw256"], batch, workers, checked=False, augment=OFF),
    }
    for epoch in rows.values():
        epoch()  # warm: page cache, compiled code, worker processes
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for turn in range(2 * repeats):
        for name in rows if turn % 2 == 0 else reversed(rows):
            rates[name].append(measured(rows[name]))
    table = {}
    base = statistics.median(core for core, _ in rates["plain"])
    for name, seen in rates.items():
        core, wall = (statistics.median(column) for column in zip(*seen, strict=True))
        table[name] = {"per_core": round(core, 1), "per_second": round(wall, 1), "times_plain": round(core / base, 2)}
        print(f"{name:24} {core:8.0f} images/s per core {wall:8.0f} images/s  {core / base:5.2f}x plain", flush=True)
    first = {reader: first_batch(betons["full"], reader) for reader in ("ffcv", "beton")}
    for reader, seen in first.items():
        print(f"{reader}: first batch of 128 after {seen['seconds']} s, peak {seen['peak_mib']:,} MiB", flush=True)
    colour = colour_per_image()
    print(f"colour: {colour:.2f} ms of a core per image")
    return {
        "rows": table,
        "mean_jpeg_kb": round(sum(f.stat().st_size for f in tree.rglob("*.jpg")) / images / 1e3, 1),
        "colour_ms_per_image": round(colour, 3),
        "first_batch_of_128": first,
    }


if __name__ == "__main__":
    main()
