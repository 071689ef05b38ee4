"""The faults: each function does one of them once, and asserts that nothing was lost, replayed or silently wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

from tests.faults.launching import Launch, call, digest, records
from tests.kit.recipe import write_images, write_recipe
from unicscale import checkpoint
from unicscale.checkpoint.reading import committed, opened
from unicscale.data.pack.writing import Form, pack
from unicscale.errors import CheckpointError
from unicscale.ranks.world import World

Way = tuple[str, int, str]  # engine, ranks, reader
WAYS: list[Way] = [
    ("plain", 1, "folder"), ("plain", 2, "beton"), ("fsdp2", 2, "ffcv"), ("zero3", 2, "beton"),
    ("plain", 1, "ffcv"), ("fsdp2", 2, "beton"), ("zero3", 2, "ffcv"),
]  # fmt: skip
STEPS, FIRST_OF_STAGE_2 = 16, 8


NEEDS = {"beton": "ffcv", "ffcv": "ffcv", "zero3": "deepspeed"}  # FFCV also writes what the other reader reads


def ways(engines: list[str]) -> list[Way]:
    """Those of the named engines that this machine can go."""
    here = {part for part, package in NEEDS.items() if find_spec(package)}
    return [way for way in WAYS if way[0] in engines and {*way} & NEEDS.keys() <= here]


class NotHere(Exception):
    """This machine cannot produce the fault; the text says why."""


@dataclass
class Ground:
    """Where the runs of one fault lie."""

    folder: Path
    ways: list[Way] = field(default_factory=lambda: WAYS)
    expected: dict[str, str] = field(default_factory=dict)

    def recipe(self, name: str, **changes: Any) -> Path:
        """A fresh run's recipe."""
        images = self._data(changes.get("data__reader", "folder"))
        own = self.folder / name
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        return write_recipe(own / "recipe.yaml", images, own / "run", steps=STEPS, **changes)

    def reference(self, ranks: int = 1, **changes: Any) -> str:
        """The digest of the same run, undisturbed."""
        key = f"{ranks} {sorted((k, v) for k, v in changes.items() if not k.startswith('save'))}"
        if key not in self.expected:
            recipe = self.recipe("reference", **changes)
            launch = Launch(recipe, ranks=ranks)
            assert launch.wait(300) == [0] * ranks, launch.said()
            self.expected[key] = digest(recipe.parent / "run")
        return self.expected[key]

    def way(self, seed: int) -> tuple[dict[str, Any], int]:
        """Engines, numbers of ranks and readers in turn."""
        kind, ranks, reader = self.ways[seed % len(self.ways)]
        return {"engine__kind": kind, "data__reader": reader}, ranks

    def _data(self, reader: str) -> Path:
        images, packed = self.folder / "images", self.folder / "images.beton"
        if not images.exists():
            write_images(images)
        if reader != "folder" and not packed.exists():
            pack(str(images), str(packed), Form(max_side=64), workers=1)
        return images if reader == "folder" else packed


def finish(recipe: Path, ranks: int, expected: str) -> Launch:
    """The same command again: it must end like the undisturbed run."""
    launch = Launch(recipe, ranks=ranks)
    assert launch.wait(120) == [0] * ranks, launch.said()
    assert digest(recipe.parent / "run") == expected, f"the resumed run differs:\n{launch.said()}"
    return launch


def kill(launch: Launch) -> None:
    """All ranks at once, and gone."""
    launch.signal(signal.SIGKILL)
    launch.wait(10)


def fault_1_kill_all_ranks_at_a_random_step(ground: Ground, seed: int) -> None:
    chance, (changes, ranks) = Random(seed), ground.way(seed)
    expected = ground.reference(ranks, **changes)
    asynchronous = seed % 2 == 1
    recipe = ground.recipe("killed", **changes, save__asynchronous=asynchronous)
    launch, at = Launch(recipe, ranks=ranks), chance.randrange(1, STEPS)
    launch.until(lambda: launch.steps() >= at)
    time.sleep(chance.random() * 0.03)
    kill(launch)
    reached, newest = launch.steps(), committed(launch.run / "checkpoints")
    lost = reached - (int(newest[0].name.removeprefix("step-")) if newest else 0)
    # behind training's back: one save in flight, and the interval since it began
    assert lost <= (6 if asynchronous else 3), f"{lost} steps lost"
    finish(recipe, ranks, expected)


def fault_2_kill_during_a_save(ground: Ground, seed: int) -> None:
    chance, (changes, ranks) = Random(seed), ground.way(seed // 2)
    expected = ground.reference(ranks, **changes)
    recipe = ground.recipe("torn", **changes)
    sabotage = ("die_at_operation", {"number": chance.randrange(1, 70)})
    if seed % 2:
        sabotage = ("die_in_a_file", {"save": chance.randrange(1, 7)})
    launch = Launch(recipe, ranks=ranks, sabotage=sabotage, on=chance.randrange(ranks))
    codes = launch.wait(60)
    died = -signal.SIGKILL in codes
    assert died or codes == [0] * ranks, launch.said()
    if committed(launch.run / "checkpoints"):
        checkpoint.locate(launch.run)
    finish(recipe, ranks, expected)


def fault_6_kill_at_the_boundary_of_the_stages(ground: Ground, seed: int) -> None:
    chance, (changes, ranks) = Random(seed), ground.way(seed)
    expected = ground.reference(ranks, **changes)
    recipe = ground.recipe("boundary", **changes, save__every_steps=(4, 3, 5)[seed % 3])
    launch = Launch(recipe, ranks=ranks)
    launch.until(lambda: launch.steps() >= FIRST_OF_STAGE_2 - seed % 2)
    time.sleep(chance.random() * 0.03)
    kill(launch)
    finish(recipe, ranks, expected)
    stages = {record["step"]: record["stage"] for record in records(launch.run)}
    assert stages == {step: int(step > FIRST_OF_STAGE_2) for step in range(1, STEPS + 1)}


def fault_7_kill_one_rank(ground: Ground, seed: int) -> None:
    chance = Random(seed)
    kind = ("plain", "fsdp2")[seed % 2]
    expected = ground.reference(2, engine__kind=kind)
    recipe = ground.recipe("one", engine__kind=kind)
    launch, victim = Launch(recipe, ranks=2), chance.randrange(2)
    at = chance.randrange(2, STEPS - 2)
    launch.until(lambda: launch.steps() >= at)
    launch.signal(signal.SIGKILL, victim)
    codes = launch.wait(30)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 6, f"{codes}\n{launch.said()}"
    pid = launch.processes[victim].pid
    assert f"rank {1 - victim} lost rank {victim}" in launch.said() and f"pid {pid}" in launch.said(), launch.said()
    finish(recipe, 2, expected)


def fault_8_stop_one_rank(ground: Ground, seed: int) -> None:
    recipe = ground.recipe("stopped", engine__timeout_seconds=3)
    launch, victim = Launch(recipe, ranks=2), seed % 2
    launch.until(lambda: launch.steps() >= 1 + seed % 3)
    launch.signal(signal.SIGSTOP, victim)
    began = time.monotonic()
    launch.processes[1 - victim].join(3 + 10)
    waited = time.monotonic() - began
    said = launch.said()
    launch.signal(signal.SIGKILL, victim)
    assert launch.wait(10)[1 - victim] == 6, f"{waited:.1f} s\n{said}"
    assert f"rank {victim} (" in said and f"pid {launch.processes[victim].pid}) does not answer" in said, said
    assert "in loop" in (launch.run / "logs" / f"rank-{1 - victim:04d}.stacks").read_text()


def fault_10_out_of_memory(ground: Ground, seed: int) -> None:
    expected = ground.reference()
    recipe = ground.recipe("memory")
    step = Random(seed).randrange(4, STEPS)
    launch = Launch(recipe, sabotage=("ask_for_too_much_memory", {"step": step}))
    assert launch.wait() == [6], launch.said()
    assert f"rank 0 ran out of memory in 'step {step}: loss'" in launch.said(), launch.said()
    finish(recipe, 1, expected)


def fault_11_disk_full_during_a_save(ground: Ground, seed: int) -> None:
    ranks = 1 + seed % 2
    expected = ground.reference(ranks)
    recipe = ground.recipe("full")
    disk = recipe.parent / "run"
    disk.mkdir()
    with Disk(disk, kilobytes=4500 + 300 * (seed % 10)):
        launch = Launch(recipe, ranks=ranks)
        assert launch.wait() == [5] * ranks, launch.said()
        assert "the save failed: rank" in launch.said() and "No space left on device" in launch.said(), launch.said()
        kept = committed(disk / "checkpoints")
        assert kept and checkpoint.locate(disk).path == kept[0]
        assert f"{kept[0].name} and the ones before it are intact" in launch.said(), launch.said()
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        finish(recipe, ranks, expected)


class Disk:
    """A file system of so many kilobytes in place of a folder."""

    def __init__(self, folder: Path, *, kilobytes: int, options: str = "") -> None:
        self.folder, self.options = folder, f"size={kilobytes}k{options}"

    def __enter__(self) -> None:
        command = ["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NotHere(f"no right to mount a small file system here: {done.stderr.strip()}")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


def stopped_at(ground: Ground, name: str, step: int, ranks: int = 1, **changes: Any) -> tuple[Path, Path]:
    """A run killed after `step`; its recipe and its checkpoints folder."""
    recipe = ground.recipe(name, **changes, save__asynchronous=False)
    launch = Launch(recipe, ranks=ranks)
    launch.until(lambda: launch.steps() >= step)
    kill(launch)
    return recipe, launch.run / "checkpoints"


def fault_12_truncated_shard(ground: Ground, seed: int) -> None:
    expected = ground.reference()
    recipe, folder = stopped_at(ground, "truncated", 10)
    newest, before = committed(folder)[:2]
    shard = newest / "rank-0000.safetensors"
    os.truncate(shard, Random(seed).randrange(shard.stat().st_size))
    launch = finish(recipe, 1, expected)
    assert f"{newest.name} is skipped: rank-0000.safetensors has" in launch.said(), launch.said()
    assert f"going on from {before}" in launch.said(), launch.said()


def fault_13_one_flipped_bit(ground: Ground, seed: int) -> None:
    source = ground.folder / "bits" / "run"
    if not source.exists():
        stopped_at(ground, "bits", 10)
    chance = Random(seed)
    newest = committed(source / "checkpoints")[0]
    file = chance.choice(sorted(newest.iterdir()))
    whole = file.read_bytes()
    bit = chance.randrange(8 * len(whole))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    file.write_bytes(flipped)
    try:
        checkpoint.locate(newest)
    except CheckpointError as error:
        assert file.name in str(error), str(error)
    else:
        raise AssertionError(f"bit {bit} of {file.name} was flipped and nobody noticed")
    finally:
        file.write_bytes(whole)
    checkpoint.locate(newest)


def fault_14_LATEST_is_missing_or_garbage(ground: Ground, seed: int) -> None:
    expected = ground.reference()
    recipe, folder = stopped_at(ground, "latest", 10)
    newest = committed(folder)[0]
    (folder / "LATEST").unlink()
    if seed % 3:
        (folder / "LATEST").write_bytes(Random(seed).randbytes(20) if seed % 3 == 1 else b"step-00000099\n")
    launch = finish(recipe, 1, expected)
    assert f"going on from {newest}" in launch.said() and "LATEST" in launch.said(), launch.said()


def fault_15_three_torn_saves_and_retention(ground: Ground, seed: int) -> None:
    chance, expected = Random(seed), ground.reference()
    recipe, folder = stopped_at(ground, "thrice", 7)
    for _ in range(3):
        for path in committed(folder)[:1]:
            os.truncate(path / "rank-0000.safetensors", chance.randrange(1000))
        launch = Launch(recipe, sabotage=("die_at_operation", {"number": chance.randrange(14, 30)}))
        launch.wait()
    finish(recipe, 1, expected)
    whole = [path for path in committed(folder) if not opened(path).problems()]
    assert len(whole) >= 2, [path.name for path in committed(folder)]


def fault_16_the_same_step_saved_again_and_killed(ground: Ground, seed: int) -> None:
    recipe = ground.recipe("same")
    folder = recipe.parent / "checkpoints"
    folder.mkdir()
    arguments = {"folder": str(folder), "recipe": str(recipe)}
    assert call("save_the_same_step_again", arguments | {"value": 1.0}) == 0
    harm = ("die_at_operation", {"number": 1 + seed % 20}) if seed % 7 else ("die_in_a_file", {"save": 1})
    code = call("save_the_same_step_again", arguments | {"value": 2.0}, harm)
    found = checkpoint.find(folder, World())
    assert found is not None and found.progress.step == 9
    values = torch.cat(list(found.tensors("weights").values())).unique().tolist()
    assert values in ([1.0], [2.0]), f"a mixture: {values}"
    assert values == [2.0] or code == -signal.SIGKILL
    assert [path.name for path in folder.iterdir() if path.name.startswith(".step")] == []


def fault_17_read_only_run_folder(ground: Ground, seed: int) -> None:
    recipe = ground.recipe("readonly")
    run = recipe.parent / "run"
    run.mkdir()
    with Disk(run, kilobytes=100, options=",ro"):
        began = time.monotonic()
        command = [sys.executable, "-m", "unicscale", "train", str(recipe)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        waited = time.monotonic() - began
    assert done.returncode == 5, done.stderr
    assert f"the run folder {run} cannot be written" in done.stderr and "out=FOLDER" in done.stderr, done.stderr
    assert waited < 5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), f"{waited:.1f} s"


def fault_24_another_number_of_ranks(ground: Ground, seed: int) -> None:
    sharded = sorted({kind for kind, *_ in ground.ways} - {"plain"})
    kind = sharded[seed % len(sharded)]
    changes = {
        "engine__kind": kind, "save__every_steps": 5, "save__keep": 9,
        "stages": [{"name": "only", "size": 32, "steps": 15, "warmup_steps": 2, "lr": {"peak": 1e-3}}],
    }  # fmt: skip
    recipe = ground.recipe("worlds", **changes)
    assert Launch(recipe, ranks=2).wait(120) == [0, 0]
    run = recipe.parent / "run"
    reference = seen_weights(run / "checkpoints" / "step-00000010")
    for ranks in (2, 1, 4):
        for step in (10, 15):
            shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
        launch = Launch(recipe, ranks=ranks)
        assert launch.wait(120) == [0] * ranks, launch.said()
        found = seen_weights(run / "checkpoints" / "step-00000010")
        worst = max(float((found[n] - w).norm() / w.norm().clamp(min=1e-3)) for n, w in reference.items())
        assert worst == 0 if ranks == 2 else worst <= 1e-6, f"{kind}, 2 -> {ranks} ranks: {worst:.1e} relative"


def seen_weights(path: Path) -> dict[str, torch.Tensor]:
    """All weights but the biases of keys: softmax does not see them, so their gradient is rounding noise alone."""
    weights = checkpoint.locate(path).tensors("weights")
    for name, weight in weights.items():
        if name.endswith("qkv.bias"):
            weights[name] = torch.cat(weight.chunk(3)[::2])
    return weights


def fault_25_another_engine(ground: Ground, seed: int) -> None:
    recipe, folder = stopped_at(ground, "engines", 10, ranks=2, engine__kind="fsdp2")
    before = digest(folder)
    chain = [("plain", 2), ("zero3", 2), ("fsdp2", 2)]
    if "zero3" not in {way[0] for way in ground.ways}:
        chain.remove(("zero3", 2))
    for kind, ranks in chain:
        tree = yaml.safe_load(recipe.read_text())
        tree["engine"]["kind"] = kind
        recipe.write_text(yaml.safe_dump(tree))
        write = Launch(recipe, ranks=ranks, instead=("rewrite", {"recipe": str(recipe)}))
        assert write.wait(120) == [0] * ranks, write.said()
        assert committed(folder) and opened(committed(folder)[0]).manifest.engine == kind
        assert digest(folder) == before, f"{kind} changed the numbers"


def fault_26_a_gradient_that_is_not_finite_on_one_rank(ground: Ground, seed: int) -> None:
    chance = Random(seed)
    kind = ("plain", "fsdp2")[seed % 2]
    count = 1 + seed % 3
    beside = [step for step in range(3, 12) if not step <= FIRST_OF_STAGE_2 < step + min(count, 2)]
    first = chance.choice(beside)  # the change of stage itself moves positions and moments
    recipe = ground.recipe("nan", engine__kind=kind, save__every_steps=1, save__keep=99)
    sabotage = ("spoil_the_loss", {"first": first, "count": count})
    launch = Launch(recipe, ranks=2, sabotage=sabotage, on=chance.randrange(2))
    codes = launch.wait()
    folder = launch.run / "checkpoints"
    before, after = (opened(folder / f"step-{step:08d}") for step in (first, first + min(count, 2)))
    for kind in ("weights", "exp_avg", "exp_avg_sq"):
        moved = [n for n, t in before.tensors(kind).items() if not torch.equal(t, after.tensors(kind)[n])]
        assert not moved, f"a skipped step moved {kind}/{moved[0]}"
    if count < 3:
        assert codes == [0, 0] and records(launch.run)[-1]["skipped"] == count, launch.said()
    else:
        assert codes == [6, 6], launch.said()
        assert f"step {first + 3}: the gradient was not finite 3 times in a row" in launch.said(), launch.said()
        assert checkpoint.locate(launch.run).progress.step == first + 3  # saved on leaving, with the weights of before


Fault = Callable[[Ground, int], None]
TABLE: list[tuple[int, Fault, int]] = [  # number, what, how often
    (1, fault_1_kill_all_ranks_at_a_random_step, 50),
    (2, fault_2_kill_during_a_save, 50),
    (6, fault_6_kill_at_the_boundary_of_the_stages, 10),
    (7, fault_7_kill_one_rank, 20),
    (8, fault_8_stop_one_rank, 10),
    (10, fault_10_out_of_memory, 5),
    (11, fault_11_disk_full_during_a_save, 10),
    (12, fault_12_truncated_shard, 20),
    (13, fault_13_one_flipped_bit, 100),
    (14, fault_14_LATEST_is_missing_or_garbage, 10),
    (15, fault_15_three_torn_saves_and_retention, 10),
    (16, fault_16_the_same_step_saved_again_and_killed, 20),
    (17, fault_17_read_only_run_folder, 3),
    (24, fault_24_another_number_of_ranks, 12),
    (25, fault_25_another_engine, 4),
    (26, fault_26_a_gradient_that_is_not_finite_on_one_rank, 10),
]
