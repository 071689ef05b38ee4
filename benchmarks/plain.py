"""The same mathematics written plainly, and a step of ours beside it: same images, same weights, same loss.

    python benchmarks/plain.py [--steps 4] [--repeats 4] [--machine "2 cores, no GPU"]

Plain: the student in eager, fp32 weights under autocast; a perceptron per block, teacher and token, whose answers are
added up; tokens of all images for the statistics; a loop over images that drops teachers and reads every number on the
host. CPU seconds of the process, in turns (ABBA), medians. UNIC-B's and UNIC-L's structure, made small.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale import rng
from unicscale.contracts import Features
from unicscale.engine import build_engine
from unicscale.objective.balance import TeacherDropping
from unicscale.objective.loss import distil
from unicscale.objective.standardize import EPS, Standardizer
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student

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
IMAGES = 8
LR, DECAY, BETAS = 1e-4, 0.03, (0.9, 0.99)


def student_of(shape: dict[str, Any]) -> Student:
    """On meta."""
    options = {"depth": shape["depth"], "embed_dim": shape["width"], "num_heads": shape["heads"]}
    section = sections.Student(arch="vit_small", patch=shape["patch"], drop_path=0, options=options)
    return build_student(section, sections.Ladder(), dims_of(shape), shape["size"])


def dims_of(shape: dict[str, Any]) -> dict[str, int]:
    """The teachers' widths."""
    return {f"t{number}": dim for number, dim in enumerate(shape["teachers"])}


def tokens_of(shape: dict[str, Any], step: int) -> dict[str, Features]:
    """What teachers would say, raw: both sides are given the same, so that only our own part is compared."""
    drawn = torch.Generator().manual_seed(step)
    count = (shape["size"] // shape["patch"]) ** 2
    return {
        name: Features(3 * torch.randn(IMAGES, dim, generator=drawn), torch.randn(IMAGES, count, dim, generator=drawn))
        for name, dim in dims_of(shape).items()
    }


def images_of(shape: dict[str, Any], step: int) -> Tensor:
    """Pixels."""
    drawn = torch.Generator().manual_seed(1000 + step)
    side = shape["size"]
    return torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8, generator=drawn)


# --- ours -------------------------------------------------------------------------------------------


class Ours:
    """The loop's own parts."""

    def __init__(self, shape: dict[str, Any]) -> None:
        self.shape = shape
        section = sections.EngineSection(dtype="bf16", device="cpu", weight_decay=DECAY, betas=BETAS)
        made: dict[str, Any] = {"seed": 0, "world": World(), "micro_batches": 1, "size": shape["size"]}
        self.engine: Any = build_engine(section, student_of(shape), **made)
        self.known = {n: Features(Standardizer(d), Standardizer(d)) for n, d in dims_of(shape).items()}  # type: ignore

    def __call__(self, step: int) -> float:
        raw, index = tokens_of(self.shape, step), torch.arange(IMAGES)
        targets = {n: Features(*(s(t, 0.5) for s, t in zip(self.known[n], raw[n], strict=True))) for n in raw}  # type: ignore
        loss = distil(self.engine.student(images_of(self.shape, step)).answers, targets, p=self.shape["p"],
                      key=(0, step), index=index)  # fmt: skip
        self.engine.backward(loss.sum, last=True)
        self.engine.step(LR, loss.weight)
        return float(loss.terms["loss"])


# --- plain ------------------------------------------------------------------------------------------


class Plain:
    """What one would write first."""

    def __init__(self, shape: dict[str, Any]) -> None:
        self.shape = shape
        made: dict[str, Any] = {"seed": 0, "world": World(), "micro_batches": 1, "size": shape["size"]}
        engine: Any = build_engine(sections.EngineSection(device="cpu"), student_of(shape), **made)
        self.student = engine.student  # its weights: the step below is all that differs
        for parameter in self.student.parameters():
            parameter.grad = None
        trained = [p for p in self.student.parameters() if p.requires_grad]
        still = [p for p in trained if p.ndim < 2]
        groups = [{"params": [p for p in trained if p.ndim >= 2]}, {"params": still, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, weight_decay=DECAY)
        self.mean = {(n, k): torch.zeros(d) for n, d in dims_of(shape).items() for k in Features._fields}
        self.deviation = {key: torch.ones_like(mean) for key, mean in self.mean.items()}

    def __call__(self, step: int) -> float:
        targets = {n: Features(*(self._standardised(n, k, t) for k, t in both._asdict().items()))
                   for n, both in tokens_of(self.shape, step).items()}  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            x = images_of(self.shape, step).float() / 255
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            blocks, _ = self.student.trunk((x - mean) / std)
            answers = self._answers(blocks)
        loss, kept, metrics = plain_loss(answers, targets, self.shape["p"], (0, step))
        (loss / kept).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return metrics["loss"]

    def _standardised(self, name: str, kind: str, tokens: Tensor) -> Tensor:
        mean, deviation = self.mean[name, kind], self.deviation[name, kind]
        standardised = (tokens - mean) / (deviation + EPS)
        seen = tokens.reshape(-1, tokens.shape[-1])
        self.mean[name, kind] = 0.5 * mean + 0.5 * seen.mean(0)
        self.deviation[name, kind] = 0.5 * deviation + 0.5 * (seen.std(0) + EPS)
        return standardised

    def _answers(self, blocks: list[Tensor]) -> dict[str, Features]:
        answers: dict[str, Features] = {}
        for name in dims_of(self.shape):
            summary, patches = torch.zeros(()), torch.zeros(())
            for rung, x in zip(self.student.projector.rungs.values(), blocks, strict=True):
                heads = rung.heads[name]
                summary, patches = summary + heads["cls"](x[:, 0]), patches + heads["patch"](x[:, 1:])
            answers[name] = Features(summary, patches)
        return answers


def plain_loss(
    answers: dict[str, Features], targets: dict[str, Features], p: float, key: tuple[int, int]
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Image by image: the worst teacher stays, the others by their draw; numbers are read as they come."""
    errors: dict[str, list[Tensor]] = {}
    for name, target in targets.items():
        both = []
        for guess, truth in zip(answers[name], target, strict=True):
            cosine = 1 - F.cosine_similarity(guess.float(), truth, dim=-1)
            both.append(0.5 * cosine + 0.5 * F.smooth_l1_loss(guess.float(), truth, reduction="none").mean(-1))
        errors[name] = [(both[0][b] + both[1][b].mean()) / 2 for b in range(len(target.summary))]  # type: ignore
    return plain_dropping(errors, p, key)


def plain_dropping(
    errors: dict[str, list[Tensor]], p: float, key: tuple[int, int]
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The part that decides who teaches which image, and what is logged of it."""
    names, images = list(errors), len(next(iter(errors.values())))
    keys = rng.keys_torch(rng.key(key[0], rng.Purpose.DROP_TEACHER, key[1]), torch.arange(images))
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


def steps(shape: dict[str, Any], count: int, repeats: int) -> dict[str, Any]:
    """Steps of both, whose losses must agree before their times mean anything."""
    ours, plain = Ours(shape), Plain(shape)
    losses = [(ours(step), plain(step)) for step in range(3)]
    assert all(abs(a - b) < 2e-2 * abs(b) for a, b in losses), losses
    ratios = turns(lambda: [ours(s) for s in range(count)], lambda: [plain(s) for s in range(count)], repeats)
    return {"losses": losses, "ratios": ratios, "median": statistics.median(ratios)}


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


def main() -> None:
    """Every row, one line each and one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--machine", default="2 cores, no GPU")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {"dropping, 128 images, 4 teachers": dropping(128, 4, given.repeats)}
    rows |= {f"step, {name}": steps(shape, given.steps, given.repeats) for name, shape in SHAPES.items()}
    for name, row in rows.items():
        print(f"{name}: plain takes {row['median']:.2f} times as long")
    result = {"rows": rows, "machine": given.machine, "date": date.today().isoformat(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
