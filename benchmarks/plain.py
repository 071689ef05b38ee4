"""The same mathematics written plainly, and a step of ours beside it: same images, same weights, same loss.

    python benchmarks/plain.py [--steps 4] [--repeats 4] [--machine "2 cores, no GPU"]
    python benchmarks/plain.py --curves 200        both learn the demo's scenes from its teachers: do their losses part?

Plain: the student in eager, fp32 weights under autocast; a perceptron per block, teacher and token, whose answers are
added up; tokens of all images for the statistics; a loop over images that drops teachers and reads every number on the
host; over two ranks torch's DDP, every rank's tokens gathered. CPU seconds of the process, in turns (ABBA), medians.
UNIC-B's and UNIC-L's structure, made small.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unicscale import demo, rng
from unicscale.contracts import Features
from unicscale.data import scenes
from unicscale.engine import attention, build_engine
from unicscale.objective.balance import TeacherDropping
from unicscale.objective.loss import distil
from unicscale.objective.standardize import EPS, Standardizer, update
from unicscale.ranks.world import World
from unicscale.recipe import load, sections
from unicscale.student.model import Student, build_student
from unicscale.teacher.targets import Teachers

RESULTS = Path(__file__).parent / "results" / "plain.json"
SHAPES: dict[str, dict[str, Any]] = {
    "unic_b, small": {"depth": 12, "width": 96, "heads": 3, "patch": 16, "size": 112, "teachers": [96] * 4, "p": 0.5},
    "unic_l, small": {
        "depth": 24,
        "width": 96,
        "heads": 3,
        "patch": 14,
        "size": 112,
        "teachers": [144, 120],
        "p": 0.25,
    },
}
IMAGES, SCENES = 8, 32
LR, DECAY, BETAS = 1e-4, 0.03, (0.9, 0.99)


Supply = Callable[[int], tuple[Tensor, dict[str, Features]]]  # step -> pixels, and what the teachers say of them, raw


def student_of(shape: dict[str, Any]) -> Student:
    """On meta."""
    options = {"depth": shape["depth"], "embed_dim": shape["width"], "num_heads": shape["heads"]}
    section = sections.Student(arch="vit_small", patch=shape["patch"], drop_path=0, options=options)
    return build_student(section, sections.Ladder(), dims_of(shape), shape["size"])


def dims_of(shape: dict[str, Any]) -> dict[str, int]:
    """The teachers' widths."""
    return {f"t{number}": dim for number, dim in enumerate(shape["teachers"])}


def noise_of(shape: dict[str, Any], world: World) -> Supply:
    """Pixels and tokens by chance; both sides are given the same, so that only our own part is compared."""

    def drawn(step: int) -> tuple[Tensor, dict[str, Features]]:
        draw = torch.Generator().manual_seed(step)
        side, count = shape["size"], (shape["size"] // shape["patch"]) ** 2
        pixels = torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8, generator=draw)
        said = {
            name: Features(
                3 * torch.randn(IMAGES, dim, generator=draw), torch.randn(IMAGES, count, dim, generator=draw)
            )
            for name, dim in dims_of(shape).items()
        }
        own = own_of(world)
        return pixels[own], {name: one.each(lambda tokens: tokens[own]) for name, one in said.items()}

    return drawn


def own_of(world: World) -> slice:
    """A rank's share of IMAGES."""
    share = IMAGES // world.size
    return slice(world.rank * share, (world.rank + 1) * share)


# --- ours -------------------------------------------------------------------------------------------


class Ours:
    """The loop's own parts."""

    def __init__(self, shape: dict[str, Any], supply: Supply, seed: int = 0, world: World | None = None) -> None:
        self.shape, self.supply, self.world = shape, supply, world or World()
        section = sections.EngineSection(dtype="bf16", device="cpu", weight_decay=DECAY, betas=BETAS)
        made: dict[str, Any] = {"seed": seed, "world": self.world, "micro_batches": 1, "size": shape["size"]}
        student = student_of(shape)
        self.engine: Any = build_engine(section, student, **made)
        attention.write_out(attention.student_of([shape["size"]], torch.bfloat16, student, self.engine.student))
        self.known = {n: Features(Standardizer(d), Standardizer(d)) for n, d in dims_of(shape).items()}  # type: ignore

    def __call__(self, step: int) -> float:
        pixels, raw = self.supply(step)
        index = torch.arange(len(pixels)) + self.world.rank * len(pixels)
        targets = {n: Features(*(self._seen(s, t) for s, t in zip(self.known[n], raw[n], strict=True))) for n in raw}
        loss = distil(self.engine.student(pixels).answers, targets, p=self.shape["p"],
                      key=(0, step), index=index)  # fmt: skip
        self.engine.backward(loss.sum, last=True)
        self.engine.step(self.shape.get("lr", LR), loss.weight)
        update([s for both in self.known.values() for s in both], 0.5, self.world)  # type: ignore[misc]
        return float(loss.terms["loss"])

    @staticmethod
    def _seen(standardizer: Standardizer, tokens: Tensor) -> Tensor:
        standardised = standardizer.normalise(tokens)
        standardizer.observe(tokens)
        return standardised


# --- plain ------------------------------------------------------------------------------------------


class Plain:
    """What one would write first."""

    def __init__(self, shape: dict[str, Any], supply: Supply, world: World | None = None) -> None:
        self.shape, self.supply, self.world = shape, supply, world or World()
        made: dict[str, Any] = {"seed": 0, "world": World(), "micro_batches": 1, "size": shape["size"]}
        engine: Any = build_engine(sections.EngineSection(device="cpu"), student_of(shape), **made)
        self.student = engine.student  # its weights: the step below is all that differs
        for parameter in self.student.parameters():
            parameter.grad = None
        trained = [p for p in self.student.parameters() if p.requires_grad]
        still = [p for p in trained if p.ndim < 2]
        groups = [{"params": [p for p in trained if p.ndim >= 2]}, {"params": still, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=shape.get("lr", LR), betas=BETAS, weight_decay=DECAY)
        self.answers: nn.Module = Answers(self.student, list(dims_of(shape)))
        if self.world.size > 1:
            self.answers = DistributedDataParallel(self.answers)
        self.mean = {(n, k): torch.zeros(d) for n, d in dims_of(shape).items() for k in Features._fields}
        self.deviation = {key: torch.ones_like(mean) for key, mean in self.mean.items()}

    def __call__(self, step: int) -> float:
        pixels, raw = self.supply(step)
        targets = {n: Features(*(self._standardised(n, k, t) for k, t in both._asdict().items()))
                   for n, both in raw.items()}  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            x = pixels.float() / 255
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            said = self.answers((x - mean) / std)
        answers = {name: Features(*said[2 * n : 2 * n + 2]) for n, name in enumerate(targets)}
        loss, kept, metrics = plain_loss(answers, targets, self.shape["p"], (0, step), self.world.rank)
        if self.world.size > 1:
            dist.all_reduce(kept)
        (loss * self.world.size / kept).backward()  # DDP takes the mean of what ranks found
        self.optimizer.step()
        self.optimizer.zero_grad()
        return metrics["loss"]

    def _standardised(self, name: str, kind: str, tokens: Tensor) -> Tensor:
        mean, deviation = self.mean[name, kind], self.deviation[name, kind]
        standardised = (tokens - mean) / (deviation + EPS)
        if self.world.size > 1:
            others = [torch.empty_like(tokens) for _ in range(self.world.size)]
            dist.all_gather(others, tokens.contiguous())
            tokens = torch.cat(others)
        seen = tokens.reshape(-1, tokens.shape[-1])
        self.mean[name, kind] = 0.5 * mean + 0.5 * seen.mean(0)
        self.deviation[name, kind] = 0.5 * deviation + 0.5 * (seen.std(0) + EPS)
        return standardised


class Answers(nn.Module):
    """A perceptron per block, teacher and kind of token, one after the other."""

    def __init__(self, student: Any, names: list[str]) -> None:
        super().__init__()
        self.student, self.names = student, names

    def forward(self, x: Tensor) -> list[Tensor]:  # summary and patches of each teacher
        blocks, _ = self.student.trunk(x)
        answers: list[Tensor] = []
        for name in self.names:
            summary, patches = torch.zeros(()), torch.zeros(())
            for rung, tokens in zip(self.student.projector.rungs.values(), blocks, strict=True):
                heads = rung.heads[name]
                summary, patches = summary + heads["cls"](tokens[:, 0]), patches + heads["patch"](tokens[:, 1:])
            answers += [summary, patches]
        return answers


def plain_loss(
    answers: dict[str, Features], targets: dict[str, Features], p: float, key: tuple[int, int], rank: int = 0
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Image by image: the worst teacher stays, the others by their draw; numbers are read as they come."""
    errors: dict[str, list[Tensor]] = {}
    for name, target in targets.items():
        both = []
        for guess, truth in zip(answers[name], target, strict=True):
            cosine = 1 - F.cosine_similarity(guess.float(), truth, dim=-1)
            both.append(0.5 * cosine + 0.5 * F.smooth_l1_loss(guess.float(), truth, reduction="none").mean(-1))
        errors[name] = [(both[0][b] + both[1][b].mean()) / 2 for b in range(len(target.summary))]  # type: ignore
    return plain_dropping(errors, p, key, rank)


def plain_dropping(
    errors: dict[str, list[Tensor]], p: float, key: tuple[int, int], rank: int = 0
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The part that decides who teaches which image, and what is logged of it."""
    names, images = list(errors), len(next(iter(errors.values())))
    keys = rng.keys_torch(rng.key(key[0], rng.Purpose.DROP_TEACHER, key[1]), torch.arange(images) + rank * images)
    draws = rng.uniforms_torch(keys, len(names)).view(len(names), -1)
    loss, kept, means = torch.zeros(()), 0, dict.fromkeys(names, 0.0)
    for b in range(images):
        values = [errors[name][b].item() for name in names]
        worst = values.index(max(values))
        for number, name in enumerate(names):
            means[name] += values[number] / images
            if number == worst or draws[number, b].item() >= p:
                loss, kept = loss + errors[name][b], kept + 1
    return loss, torch.tensor(float(kept)), {"loss": loss.item() / kept} | means


# --- rows -------------------------------------------------------------------------------------------


def seconds(act: Callable[[], object]) -> float:
    """CPU time of one call."""
    before = time.process_time()
    act()
    return time.process_time() - before


def turns(ours: Callable[[], object], plain: Callable[[], object], repeats: int) -> list[float]:
    """How many times as long plain takes: one ratio per ABBA."""
    ours(), plain()
    found = []
    for _ in range(repeats):
        a, b, c, d = seconds(ours), seconds(plain), seconds(plain), seconds(ours)
        found.append((b + c) / (a + d))
    return found


def steps(shape: dict[str, Any], count: int, repeats: int, world: World | None = None) -> dict[str, Any]:
    """Steps of both, whose losses must agree before their times mean anything."""
    world = world or World()
    supply = noise_of(shape, world)
    ours, plain = Ours(shape, supply, world=world), Plain(shape, supply, world)
    losses = [(ours(step), plain(step)) for step in range(3)]
    assert all(abs(a - b) < 2e-2 * abs(b) for a, b in losses), losses
    ratios = turns(lambda: [ours(s) for s in range(count)], lambda: [plain(s) for s in range(count)], repeats)
    return {"losses": losses, "ratios": ratios, "median": statistics.median(ratios)}


def on_two(name: str, count: int, repeats: int) -> dict[str, Any]:
    """The same over two ranks of this machine; what rank 0 measured."""
    context = torch.multiprocessing.get_context("spawn")
    said = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, name, count, repeats, said)) for rank in range(2)]
    for one in ranks:
        one.start()
    found = said.get()
    for one in ranks:
        one.join()
    return found


def _rank(rank: int, name: str, count: int, repeats: int, said: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}  # fmt: skip
    torch.set_num_threads(1)
    world = World.start(sections.EngineSection(device="cpu"))
    found = steps(SHAPES[name], count, repeats, world)
    if world.main:
        said.put(found)
    world.close()


def dropping(images: int, teachers: int, repeats: int) -> dict[str, Any]:
    """Who teaches which image, and the numbers that are logged, from the errors on."""
    torch.manual_seed(0)
    errors = torch.rand(teachers, images)
    rows = {f"t{number}": list(row) for number, row in enumerate(errors.unbind())}
    balance, index = TeacherDropping(0.5), torch.arange(images)

    def ours() -> dict[str, float]:
        alpha = balance(errors, (0, 1), index, None)
        numbers = torch.cat([torch.stack([(alpha * errors).sum() / alpha.sum()]), errors.mean(1)]).tolist()
        return dict(zip(["loss", *rows], numbers, strict=True))

    def plain() -> dict[str, float]:
        return plain_dropping(rows, 0.5, (0, 1))[2]

    one, other = ours(), plain()
    assert all(abs(one[name] - other[name]) < 1e-5 for name in one), (one, other)
    ratios = turns(lambda: [ours() for _ in range(5)], lambda: [plain() for _ in range(5)], repeats)
    return {"ratios": ratios, "median": statistics.median(ratios)}


def curves(count: int) -> dict[str, Any]:
    """Losses of both on the demo's scenes, and how far another seed's student is from ours: what chance does."""
    recipe = load(demo.RECIPE)
    widths = Teachers.widths_of(recipe.teachers)
    shape = {"depth": 4, "width": 96, "heads": 3, "patch": 8, "size": 48, "p": 0.25, "lr": 1e-3,
             "teachers": [dim if isinstance(dim, int) else dim.summary for dim in widths.values()]}  # fmt: skip
    engine: Any = Ours(shape, noise_of(shape, World())).engine  # teachers are placed by one
    placed: dict[str, Any] = {"engine": engine, "engine_section": recipe.engine, "world": World()}
    asked = Teachers.build(recipe.teachers, recipe.standardize, student_patch=8, **placed)

    @lru_cache(1)  # all three are given the same
    def supply(step: int) -> tuple[Tensor, dict[str, Features]]:
        drawn = scenes.draw(SCENES, seed=0, size=shape["size"], first=step * SCENES).images
        pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()
        said = asked(pixels, observe=False, late=True)
        return pixels, {f"t{number}": one.each(Tensor.float) for number, one in enumerate(said.values())}

    made = {"ours": Ours(shape, supply), "plain": Plain(shape, supply), "another seed": Ours(shape, supply, seed=1)}
    found: dict[str, list[float]] = {name: [] for name in made}
    for step in range(count):
        for name, take in made.items():
            found[name].append(round(take(step), 5))
    apart = {name: _apart(found["ours"], found[name]) for name in ("plain", "another seed")}
    return {"synthetic": True, "steps": count, "images": SCENES, "apart": apart, "losses": found}


def _apart(one: list[float], other: list[float]) -> float:
    """The mean relative distance of two curves."""
    return statistics.fmean(abs(a - b) / a for a, b in zip(one, other, strict=True))


def main() -> None:
    """Every row, one line each and one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--machine", default="2 cores, no GPU")
    parser.add_argument("--curves", type=int, metavar="STEPS", help="losses on the demo's scenes instead of times")
    given = parser.parse_args()
    torch.set_num_threads(1)
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if given.curves:
        held["curves"] = curves(given.curves)
        print(held["curves"]["apart"])
        RESULTS.write_text(json.dumps(held, indent=1) + "\n")
        return
    rows = {"dropping, 128 images, 4 teachers": dropping(128, 4, given.repeats)}
    rows |= {f"step, {name}": steps(shape, given.steps, given.repeats) for name, shape in SHAPES.items()}
    rows |= {f"step, {name}, 2 ranks": on_two(name, given.steps, given.repeats) for name in SHAPES}
    for name, row in rows.items():
        print(f"{name}: plain takes {row['median']:.2f} times as long")
    result = {"rows": rows, "machine": given.machine, "date": date.today().isoformat(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(held | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
