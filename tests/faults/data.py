"""The faults of data: failing threads, betons cut short, spoilt images, a writer that dies, the grid of readers."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np

from tests.faults.launching import Launch
from tests.faults.table import Fault, Ground, NotHere
from tests.kit.pictures import digest, jpeg, picture, section, stream
from tests.kit.recipe import write_images
from unicscale.data.pack.writing import Form, pack
from unicscale.data.sets.beton import Beton
from unicscale.data.sets.folder import listing
from unicscale.data.sets.images import ffcv_missing

IMAGES = 64
GRID = list(itertools.product((1, 2, 4), (1, 2, 4), (1, 2), ("ffcv", "beton", "folder"), (False, True)))


def fault_9_loader_thread_raises_or_stalls(ground: Ground, seed: int) -> None:
    chance, reader = Random(seed), ("folder", "beton", "ffcv")[seed % 3]
    source = _source(ground, reader)
    ranks, stalls = 1 + seed // 2 % 2, seed % 2 == 0
    harm = {"reader": reader, "call": chance.randrange(12, 20), "stalls": stalls, "mark": str(ground.folder / "mark")}
    recipe = ground.recipe("thread", data__train=[str(source)], data__reader=reader)
    (ground.folder / "mark").unlink(missing_ok=True)
    victim = chance.randrange(ranks)
    launch = Launch(recipe, ranks=ranks, sabotage=("break_the_reader", harm), on=victim)
    launch.until((ground.folder / "mark").exists)
    began = time.monotonic()
    launch.processes[victim].join(20)
    assert not launch.processes[victim].is_alive(), f"still alive after 20 s:\n{launch.said()}"
    codes = launch.wait(max(0.0, 60 - (time.monotonic() - began)))
    assert codes == [3 if rank == victim else 6 for rank in range(ranks)], f"{codes}\n{launch.said()}"
    wanted = r"the loader stands still: .*\n  waiting for image \d+ \(" if stalls else r"image \d+ \(.*no more of that"
    assert re.search(f"rank {victim}: {wanted}", launch.said()), launch.said()


def fault_20_beton_truncated(ground: Ground, seed: int) -> None:
    chance, reader = Random(seed), ("beton", "ffcv")[seed % 2]
    cut = ground.folder / "cut.beton"
    whole = _source(ground, reader).read_bytes()
    at = chance.randrange(1, len(whole) // 3)
    missing = {0: whole[at:], 1: whole[: len(whole) // 3] + whole[len(whole) // 3 + at :], 2: whole[:-at]}
    cut.write_bytes(missing[seed % 3])
    recipe = ground.recipe("cut", data__train=[str(cut)], data__reader=reader)
    launch = Launch(recipe)
    assert launch.wait(60) == [3], launch.said()
    assert f"{cut}: not a whole .beton file: " in launch.said() and "pack it again" in launch.said(), launch.said()
    assert not (launch.run / "metrics.jsonl").exists()


def fault_21_corrupt_jpeg(ground: Ground, seed: int) -> None:
    chance, reader = Random(seed), ("ffcv", "beton", "folder")[seed // 2 % 3]
    number = chance.randrange(IMAGES)
    end = _too_many_stop_every_world_alike if seed % 2 else _some_are_replaced_alike
    end(ground, str(_spoilt(ground, reader, number, chance)), reader, number)


def fault_22_beton_writers_worker_dies(ground: Ground, seed: int) -> None:
    _must_write_betons()
    folder = ground.folder / f"dies-{seed}"
    source, target = _large_images(folder / "source"), folder / "out.beton"
    command = [
        sys.executable,
        "-m",
        "unicscale",
        "pack",
        str(source),
        str(target),
        "--max-side",
        "64",
        "--workers",
        "3",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as writer:
        while len(workers := _children(writer.pid)) < 3 or not (folder / "out.beton.partial").exists():
            assert writer.poll() is None, writer.communicate()[0]
            time.sleep(0.02)
        time.sleep(0.1 * (1 + seed))
        began, victim = time.monotonic(), Random(seed).choice(workers)
        os.kill(victim, signal.SIGKILL)
        said = writer.communicate(timeout=30)[0]
    assert time.monotonic() - began < 30
    assert writer.returncode == 3 and "a writing process died (exit code -9); nothing was kept" in said, said
    assert os.listdir(folder) == ["source"], os.listdir(folder)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def fault_23_the_grid_of_worlds_threads_readers_and_resuming(ground: Ground, seed: int) -> None:
    world, threads, split, reader, resumes = GRID[seed % len(GRID)]
    data = {"images_per_step": 16, "reader": reader, "workers": threads, "micro_batch": 16 // world // split}
    steps, chance = 10, Random(seed)  # two epochs and a half
    at = chance.randrange(1, steps) if resumes else 0
    path = _source(ground, reader)
    whole = stream(section(path, reader=reader, images_per_step=16, workers=0), steps=steps)
    cut = stream(section(path, **data), world=world, after=at * 16, steps=steps - at)
    assert digest(cut) == digest(whole[at:]), f"the resumed run differs: {GRID[seed % len(GRID)]} from step {at}"
    other = stream(section(_source(ground, "folder"), images_per_step=16, workers=0), steps=steps)
    assert all((a.index == b.index).all() for a, b in zip(whole, other, strict=True))


# --- what they need ---------------------------------------------------------------------------------


def _source(ground: Ground, reader: str) -> Path:
    """64 JPEGs as a folder, and as a beton that keeps their bytes."""
    images, packed = ground.folder / "images", ground.folder / "kept.beton"
    if reader != "folder":
        _must_write_betons()
    if not images.exists():
        write_images(images, IMAGES)
    if reader != "folder" and not packed.exists():
        pack(str(images), str(packed), Form(), workers=1)
    return images if reader == "folder" else packed


def _must_write_betons() -> None:
    if ffcv_missing():
        raise NotHere(f"betons are written with FFCV, and {ffcv_missing()}")


def _spoilt(ground: Ground, reader: str, number: int, chance: Random) -> Path:
    """A copy of the data in which one image is damaged inside, in a way drawn by chance."""
    source = _source(ground, reader)
    copied = ground.folder / ("damaged" if reader == "folder" else "damaged.beton")
    shutil.rmtree(copied, ignore_errors=True)
    if reader == "folder":  # has no checksums to be compared with
        shutil.copytree(source, copied)
        file = copied / listing(str(copied))[0][number]
        data = file.read_bytes()
        file.write_bytes(chance.choice([data[: len(data) // 2], b"", b"no JPEG at all"]))
        return copied
    shutil.copy(source, copied)
    shutil.copy(f"{source}.json", f"{copied}.json")
    images = Beton(str(copied))
    whole, size = images.encoded(number), int(images.sizes[number])
    first = chance.randrange(size - 40)
    harm = chance.choice(["garbage", "garbage", "bit", "zeros"])
    if harm == "garbage":
        whole[first : first + 40] = np.frombuffer(chance.randbytes(40), np.uint8)
    elif harm == "bit":
        whole[first] ^= 1 << chance.randrange(8)
    else:
        whole[size // 2 :] = 0
    with open(copied, "r+b") as file:
        file.seek(int(images.at[number]))
        file.write(whole.tobytes())
    return copied


def _some_are_replaced_alike(ground: Ground, path: str, reader: str, number: int) -> None:
    data = section(path, reader=reader, max_bad=0.02)  # one of 64
    seen = {digest(stream(data, world=world, steps=8)) for world in (1, 2, 4)}
    assert len(seen) == 1, "the replaced image depends on the number of ranks"
    assert digest(stream(section(_source(ground, reader), reader=reader), steps=8)) not in seen, "nobody noticed"
    recipe = ground.recipe("spoilt", data__train=[path], data__reader=reader, data__max_bad=0.02)
    launch = Launch(recipe, ranks=2)
    assert launch.wait(120) == [0, 0], launch.said()
    assert f"data: replaced image {number} (" in launch.said(), launch.said()


def _too_many_stop_every_world_alike(ground: Ground, path: str, reader: str, number: int) -> None:
    ends = set()
    for ranks in (1, 2):
        recipe = ground.recipe("spoilt", data__train=[path], data__reader=reader, data__max_bad=1e-4)
        launch = Launch(recipe, ranks=ranks)
        assert launch.wait(120) == [3] * ranks, launch.said()
        reasons = re.findall(r"1 images cannot be decoded, data.max_bad allows 0:\n  image \d+ .*", launch.said())
        assert reasons and f"image {number} (" in reasons[0], launch.said()
        assert launch.steps(), "it stopped before the step that met the image"
        ends |= {(launch.steps(), reason) for reason in reasons}
    assert len(ends) == 1, f"the end depends on the number of ranks: {ends}"


def _large_images(folder: Path) -> Path:
    """Images that take three processes several seconds."""
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(jpeg(picture(0, 1500, 2000)))
    for number in range(1, 900):
        (folder / f"{number}.jpg").symlink_to("0.jpg")
    return folder


def _children(pid: int) -> list[int]:
    found = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return [child for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


DATA: list[tuple[int, Fault, int]] = [  # number, what, how often
    (9, fault_9_loader_thread_raises_or_stalls, 10),
    (20, fault_20_beton_truncated, 9),
    (21, fault_21_corrupt_jpeg, 20),
    (22, fault_22_beton_writers_worker_dies, 5),
    (23, fault_23_the_grid_of_worlds_threads_readers_and_resuming, len(GRID)),
]
